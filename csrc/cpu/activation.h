// Activations and their derivatives, in float (own branch-free exp family, so that loops vectorise) and in
// double.
#pragma once
#include "cpu/scalar.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

// x = n ln 2 + r with |r| <= ln(2)/2 (Cody and Waite); the fraction is exp(r) - 1 by its Taylor series, whose
// first neglected term is below 6e-9.
struct ExpParts {
  uint32_t n;
  float fraction;
};
PYFACE_INLINE ExpParts split_exp(float x) {
  constexpr float kMagic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + kMagic;
  const float n = shifted - kMagic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float q = 1.f / 5040.f;
  q = q * r + 1.f / 720.f;
  q = q * r + 1.f / 120.f;
  q = q * r + 1.f / 24.f;
  q = q * r + 1.f / 6.f;
  q = q * r + 0.5f;
  return {as_bits(shifted) - as_bits(kMagic), r + r * r * q};
}

// exp(x) for x <= 0, subnormal results included.
PYFACE_INLINE float exp_nonpositive(float x) {
  const ExpParts parts = split_exp(x < -104.f ? -104.f : x);
  const uint32_t n = parts.n + 254u, first = n >> 1, second = n - first;  // two factors: 2^-150 is no float
  return (parts.fraction + 1.f) * as_float(first << 23) * as_float(second << 23);
}
PYFACE_INLINE double exp_nonpositive(double x) { return __builtin_exp(x); }

// exp(x) - 1 for x <= 87.
PYFACE_INLINE float expm1(float x) {
  const ExpParts parts = split_exp(x < -87.f ? -87.f : x);
  const float power = as_float((parts.n + 127u) << 23);
  return power * parts.fraction + (power - 1.f);
}
PYFACE_INLINE double expm1(double x) { return __builtin_expm1(x); }

// log(1 + t) for 0 <= t <= 1: 2 artanh(t / (2 + t)), series to the 15th power.
PYFACE_INLINE float log1p_unit(float t) {
  const float s = t / (2.f + t), z = s * s;
  float q = 1.f / 15.f;
  q = q * z + 1.f / 13.f;
  q = q * z + 1.f / 11.f;
  q = q * z + 1.f / 9.f;
  q = q * z + 1.f / 7.f;
  q = q * z + 1.f / 5.f;
  q = q * z + 1.f / 3.f;
  return 2.f * s + 2.f * s * (z * q);
}
PYFACE_INLINE double log1p_unit(double t) { return __builtin_log1p(t); }

PYFACE_INLINE float tanh(float x) {
  const float magnitude = __builtin_fabsf(x);
  const float m = expm1(2.f * (magnitude > 20.f ? 20.f : magnitude));
  return __builtin_copysignf(m / (m + 2.f), x);
}
PYFACE_INLINE double tanh(double x) { return __builtin_tanh(x); }

PYFACE_INLINE float magnitude(float x) { return __builtin_fabsf(x); }
PYFACE_INLINE double magnitude(double x) { return __builtin_fabs(x); }

template <class F>
PYFACE_INLINE F sigmoid(F x) {
  const F e = exp_nonpositive(-magnitude(x));
  return (x < F(0) ? e : F(1)) / (F(1) + e);
}

// act(x).
template <Act kAct, class F>
PYFACE_INLINE F activate(F x, F alpha) {
  if constexpr (kAct == Act::kRelu) {
    return x < F(0) ? F(0) : x;
  } else if constexpr (kAct == Act::kLrelu) {
    const F scaled = x * alpha;
    return x < F(0) ? scaled : x;
  } else if constexpr (kAct == Act::kTanh) {
    return tanh(x);
  } else if constexpr (kAct == Act::kSigmoid) {
    return sigmoid(x);
  } else if constexpr (kAct == Act::kElu) {
    const F below = expm1(x > F(0) ? F(0) : x);
    return x > F(0) ? x : below;
  } else if constexpr (kAct == Act::kSelu) {
    const F below = F(kSeluAlpha) * expm1(x > F(0) ? F(0) : x);
    return F(kSeluScale) * (x > F(0) ? x : below);
  } else if constexpr (kAct == Act::kSoftplus) {
    const F above = x < F(0) ? F(0) : x;
    return above + log1p_unit(exp_nonpositive(-magnitude(x)));
  } else if constexpr (kAct == Act::kSwish) {
    return x * sigmoid(x);
  } else {
    return x;
  }
}

// act'(x) from a = act(x); for swish from x itself.
template <Act kAct, class F>
PYFACE_INLINE F derivative(F a, F alpha) {
  if constexpr (kAct == Act::kRelu) {
    return a > F(0) ? F(1) : F(0);
  } else if constexpr (kAct == Act::kLrelu) {
    return a > F(0) ? F(1) : alpha;
  } else if constexpr (kAct == Act::kTanh) {
    return F(1) - a * a;
  } else if constexpr (kAct == Act::kSigmoid) {
    return a * (F(1) - a);
  } else if constexpr (kAct == Act::kElu) {
    return a > F(0) ? F(1) : a + F(1);
  } else if constexpr (kAct == Act::kSelu) {
    const F below = a + F(kSeluScale * kSeluAlpha);
    return a > F(0) ? F(kSeluScale) : below;
  } else if constexpr (kAct == Act::kSoftplus) {
    return -expm1(-a);
  } else if constexpr (kAct == Act::kSwish) {
    const F s = sigmoid(a);
    return s * (F(1) + a * (F(1) - s));
  } else {
    return F(1);
  }
}

template <Act kAct>
struct ActTag {
  static constexpr Act value = kAct;
};

// Calls body(ActTag<act>{}).
template <class Body>
PYFACE_INLINE void with_act(Act act, const Body& body) {
  switch (act) {
    case Act::kLinear:
      return body(ActTag<Act::kLinear>{});
    case Act::kRelu:
      return body(ActTag<Act::kRelu>{});
    case Act::kLrelu:
      return body(ActTag<Act::kLrelu>{});
    case Act::kTanh:
      return body(ActTag<Act::kTanh>{});
    case Act::kSigmoid:
      return body(ActTag<Act::kSigmoid>{});
    case Act::kElu:
      return body(ActTag<Act::kElu>{});
    case Act::kSelu:
      return body(ActTag<Act::kSelu>{});
    case Act::kSoftplus:
      return body(ActTag<Act::kSoftplus>{});
    case Act::kSwish:
      return body(ActTag<Act::kSwish>{});
  }
}

// What follows the activation: v * gain, clamped to [-limit, limit]. NaN stays NaN.
template <class F>
struct GainClamp {
  F gain, limit;
  GainClamp(double gain_in, double clamp)
      : gain(F(gain_in)), limit(clamp < 0 ? F(__builtin_inf()) : F(clamp)) {}
  PYFACE_INLINE F operator()(F v) const {
    v *= gain;
    v = v > limit ? limit : v;
    return v < -limit ? -limit : v;
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
