// bias_act and its first derivative.
#pragma once
#include "kernels/activation.cuh"
#include "kernels/elementwise.cuh"
#include "pyface/bias_act.h"

namespace pyface::dev {

template <class T, bool kSmooth>
struct BiasActBody {
  using Element = T;
  using A = Accumulator<T>;
  const T* x;
  const T* bias;
  T* y;
  Activation<A, kSmooth> activation;

  template <int kN, Access kAccess>
  __device__ __forceinline__ void apply(size_t at, const Coordinates<kN, kAccess>& coordinates) const {
    A v[kN], b[kN];
    read_vector(x + at, v);
    if (bias) {
      coordinates.per_channel(bias, b);
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) v[k] += b[k];
    }
    activation.apply(v);
    write_vector(y + at, v);
  }
  void advance(size_t samples, size_t c, size_t hw) {
    x += samples * c * hw;
    y += samples * c * hw;
  }
};

template <class T, bool kSmooth>
struct BiasActGradBody {
  using Element = T;
  using A = Accumulator<T>;
  const T* dy;
  const T* ref;
  const T* bias;  // only for swish, whose reference is the input
  T* dx;
  Activation<A, kSmooth> activation;

  template <int kN, Access kAccess>
  __device__ __forceinline__ void apply(size_t at, const Coordinates<kN, kAccess>& coordinates) const {
    A grad[kN], r[kN], slope[kN];
    read_vector(dy + at, grad);
    read_vector(ref + at, r);
    if (bias) {
      A b[kN];
      coordinates.per_channel(bias, b);
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) r[k] += b[k];
    }
    activation.derivative(r, slope);
    PYFACE_UNROLL
    for (int k = 0; k < kN; k++) grad[k] *= slope[k];
    write_vector(dx + at, grad);
  }
  void advance(size_t samples, size_t c, size_t hw) {
    dy += samples * c * hw;
    ref += samples * c * hw;
    dx += samples * c * hw;
  }
};

// [outer, channels, inner] is [n, c, hw] when inner > 1, and channels-last pixels (n = outer, hw = 1) else.
template <class Launcher>
void run_bias_act(const BiasActParams& p, const Launcher& launch) {
  const bool vectorizable = aligned16(p.x) && aligned16(p.y) && aligned16(p.bias);
  with_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto go = [&](auto activation, auto body_type) {
      using Body = typename decltype(body_type)::type;
      const Body body{static_cast<const T*>(p.x), static_cast<const T*>(p.bias), static_cast<T*>(p.y),
                      activation};
      run_elementwise("bias_act", body, p.outer, p.channels, p.inner, p.inner == 1, vectorizable, launch);
    };
    if (is_piecewise(p.act)) {
      go(Activation<Accumulator<T>, false>(p.act, p.alpha, p.gain, p.clamp), Type<BiasActBody<T, false>>{});
    } else {
      go(Activation<Accumulator<T>, true>(p.act, p.alpha, p.gain, p.clamp), Type<BiasActBody<T, true>>{});
    }
  });
}

template <class Launcher>
void run_bias_act_grad(const BiasActGradParams& p, const Launcher& launch) {
  const void* bias = p.act == Act::kSwish ? p.bias : nullptr;
  const bool vectorizable = aligned16(p.dy) && aligned16(p.ref) && aligned16(p.dx) && aligned16(bias);
  with_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto go = [&](auto activation, auto body_type) {
      using Body = typename decltype(body_type)::type;
      const Body body{static_cast<const T*>(p.dy), static_cast<const T*>(p.ref), static_cast<const T*>(bias),
                      static_cast<T*>(p.dx), activation};
      run_elementwise("bias_act_grad", body, p.outer, p.channels, p.inner, p.inner == 1, vectorizable,
                      launch);
    };
    if (is_piecewise(p.act)) {
      go(Activation<Accumulator<T>, false>(p.act, p.alpha, p.gain, p.clamp),
         Type<BiasActGradBody<T, false>>{});
    } else {
      go(Activation<Accumulator<T>, true>(p.act, p.alpha, p.gain, p.clamp), Type<BiasActGradBody<T, true>>{});
    }
  });
}

}  // namespace pyface::dev
