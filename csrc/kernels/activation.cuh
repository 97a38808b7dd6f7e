// Activations and their derivatives on N values at once, and the clamp. NaN passes through all of them.
#pragma once
#include "kernels/device.cuh"

namespace pyface::dev {

__device__ __forceinline__ float exp_of(float v) { return expf(v); }
__device__ __forceinline__ double exp_of(double v) { return exp(v); }
__device__ __forceinline__ float expm1_of(float v) { return expm1f(v); }
__device__ __forceinline__ double expm1_of(double v) { return expm1(v); }
__device__ __forceinline__ float log1p_of(float v) { return log1pf(v); }
__device__ __forceinline__ double log1p_of(double v) { return log1p(v); }
__device__ __forceinline__ float tanh_of(float v) { return tanhf(v); }
__device__ __forceinline__ double tanh_of(double v) { return tanh(v); }

template <class A>
__device__ __forceinline__ A sigmoid(A v) {
  return A(1) / (A(1) + exp_of(-v));
}
// log(1 + exp(v)) without overflow.
template <class A>
__device__ __forceinline__ A softplus(A v) {
  return (v < A(0) ? A(0) : v) + log1p_of(exp_of(v < A(0) ? v : -v));
}

// The piecewise-linear activations: v, or v * slope below zero.
inline bool is_piecewise(Act act) { return act == Act::kLinear || act == Act::kRelu || act == Act::kLrelu; }
inline double slope_of(Act act, double alpha) {
  return act == Act::kLinear ? 1.0 : act == Act::kRelu ? 0.0 : alpha;
}

// gain * act(v), then the clamp. kSmooth chooses between the piecewise-linear activations and the other ones,
// so that the common kernels carry no transcendental code.
template <class A, bool kSmooth>
struct Activation {
  Act act;
  A slope, gain, inverse_gain, clamp;

  Activation(Act act_, double alpha, double gain_, double clamp_)
      : act(act_),
        slope(A(slope_of(act_, alpha))),
        gain(A(gain_)),
        inverse_gain(A(gain_ == 0 ? 0.0 : 1.0 / gain_)),
        clamp(A(clamp_)) {}

  // -inf * 0 would be NaN, hence the second select.
  __device__ __forceinline__ A below_zero(A v) const { return slope == A(0) ? A(0) : v * slope; }

  template <int N>
  __device__ __forceinline__ void apply(A (&v)[N]) const {
    if constexpr (!kSmooth) {
      PYFACE_UNROLL
      for (int k = 0; k < N; k++) v[k] = v[k] < A(0) ? below_zero(v[k]) : v[k];
    } else {
      smooth(v);
    }
    PYFACE_UNROLL
    for (int k = 0; k < N; k++) v[k] *= gain;
    if (clamp >= A(0)) {
      PYFACE_UNROLL
      for (int k = 0; k < N; k++) {  // two selects; nested ones become a branch
        v[k] = v[k] > clamp ? clamp : v[k];
        v[k] = v[k] < -clamp ? -clamp : v[k];
      }
    }
  }

  // v = d (gain * act(pre)) / d pre, 0 where the clamp holds. `ref` is the output, or for swish the input
  // with bias.
  template <int N>
  __device__ __forceinline__ void derivative(const A (&ref)[N], A (&v)[N]) const {
    A y[N];
    PYFACE_UNROLL
    for (int k = 0; k < N; k++) y[k] = ref[k];
    if constexpr (!kSmooth) {
      PYFACE_UNROLL
      for (int k = 0; k < N; k++) v[k] = ref[k] * inverse_gain > A(0) ? A(1) : slope;
    } else {
      smooth_derivative(ref, v, y);
    }
    PYFACE_UNROLL
    for (int k = 0; k < N; k++) {
      const bool held = clamp >= A(0) && (y[k] >= clamp || y[k] <= -clamp);
      v[k] = held ? A(0) : v[k] * gain;
    }
  }

 private:
  template <int N>
  __device__ __forceinline__ void smooth(A (&v)[N]) const {
    PYFACE_UNROLL
    for (int k = 0; k < N; k++) {
      switch (act) {
        case Act::kTanh:
          v[k] = tanh_of(v[k]);
          break;
        case Act::kSigmoid:
          v[k] = sigmoid(v[k]);
          break;
        case Act::kElu:
          v[k] = v[k] < A(0) ? expm1_of(v[k]) : v[k];
          break;
        case Act::kSelu:
          v[k] = A(kSeluScale) * (v[k] < A(0) ? A(kSeluAlpha) * expm1_of(v[k]) : v[k]);
          break;
        case Act::kSoftplus:
          v[k] = softplus(v[k]);
          break;
        case Act::kSwish:
          v[k] = v[k] * sigmoid(v[k]);
          break;
        default:
          break;
      }
    }
  }

  // For swish y becomes the output, which the clamp is about; the others have it in `ref`.
  template <int N>
  __device__ __forceinline__ void smooth_derivative(const A (&ref)[N], A (&v)[N], A (&y)[N]) const {
    PYFACE_UNROLL
    for (int k = 0; k < N; k++) {
      const A a = ref[k] * inverse_gain;
      switch (act) {
        case Act::kTanh:
          v[k] = A(1) - a * a;
          break;
        case Act::kSigmoid:
          v[k] = a * (A(1) - a);
          break;
        case Act::kElu:
          v[k] = a > A(0) ? A(1) : a + A(1);
          break;
        case Act::kSelu:
          v[k] = a > A(0) ? A(kSeluScale) : a + A(kSeluScale * kSeluAlpha);
          break;
        case Act::kSoftplus:
          v[k] = -expm1_of(-a);
          break;
        case Act::kSwish: {
          const A s = sigmoid(ref[k]);
          y[k] = ref[k] * s * gain;
          v[k] = s * (A(1) + ref[k] * (A(1) - s));
          break;
        }
        default:
          v[k] = A(1);
          break;
      }
    }
  }
};

}  // namespace pyface::dev
