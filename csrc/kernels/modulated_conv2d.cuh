// The passes around the shared-weight convolution of a modulated convolution.
#pragma once
#include "kernels/activation.cuh"
#include "kernels/elementwise.cuh"
#include "pyface/modulated_conv2d.h"

namespace pyface::dev {

template <class T>
struct ModulateBody {
  using Element = T;
  using A = Accumulator<T>;
  const T* x;
  const A* scale;
  T* y;

  template <int kN, Access kAccess>
  __device__ __forceinline__ void apply(size_t at, const Coordinates<kN, kAccess>& coordinates) const {
    A v[kN], s[kN];
    read_vector(x + at, v);
    coordinates.per_sample_channel(scale, s);
    PYFACE_UNROLL
    for (int k = 0; k < kN; k++) v[k] *= s[k];
    write_vector(y + at, v);
  }
  void advance(size_t samples, size_t c, size_t hw) {
    x += samples * c * hw;
    y += samples * c * hw;
    scale += samples * c;
  }
};

template <class T, bool kSmooth>
struct ConvEpilogueBody {
  using Element = T;
  using A = Accumulator<T>;
  const T* x;
  const A* demod;
  const A* noise;
  const A* bias;
  const A* next_style;
  T* y;
  bool noise_per_sample;
  Activation<A, kSmooth> activation;

  template <int kN, Access kAccess>
  __device__ __forceinline__ void apply(size_t at, const Coordinates<kN, kAccess>& coordinates) const {
    A v[kN], other[kN];
    read_vector(x + at, v);
    if (demod) {
      coordinates.per_sample_channel(demod, other);
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) v[k] *= other[k];
    }
    if (noise) {
      coordinates.per_place(noise, noise_per_sample, other);
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) v[k] += other[k];
    }
    if (bias) {
      coordinates.per_channel(bias, other);
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) v[k] += other[k];
    }
    activation.apply(v);
    if (next_style) {
      coordinates.per_sample_channel(next_style, other);
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) v[k] *= other[k];
    }
    write_vector(y + at, v);
  }
  void advance(size_t samples, size_t c, size_t hw) {
    x += samples * c * hw;
    y += samples * c * hw;
    if (demod) demod += samples * c;
    if (next_style) next_style += samples * c;
    if (noise && noise_per_sample) noise += samples * hw;
  }
};

// One warp makes demod[n..n+kSamples, o]: it reads the row of squared weights once for all of them.
template <class A, int kN, int kSamples>
__global__ void __launch_bounds__(256)
    demodulate_kernel(const A* __restrict__ weight_sq, const A* __restrict__ styles, A* __restrict__ demod,
                      int samples, int out_channels, int in_channels, A eps) {
  const int lane = threadIdx.x & 31;
  const int o = int(blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5));
  if (o >= out_channels) return;
  const A* row = weight_sq + size_t(o) * in_channels;
  for (int first = blockIdx.y * kSamples; first < samples; first += gridDim.y * kSamples) {
    A sum[kSamples] = {};
    for (int i = lane * kN; i < in_channels; i += 32 * kN) {
      A w[kN], s[kN];
      read_vector(row + i, w);
      PYFACE_UNROLL
      for (int j = 0; j < kSamples; j++) {
        const int sample = first + j < samples ? first + j : samples - 1;
        read_vector(styles + size_t(sample) * in_channels + i, s);
        PYFACE_UNROLL
        for (int k = 0; k < kN; k++) sum[j] += w[k] * s[k] * s[k];
      }
    }
    PYFACE_UNROLL
    for (int j = 0; j < kSamples; j++) {
      PYFACE_UNROLL
      for (int distance = 16; distance; distance >>= 1)
        sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], distance);
      if (lane == 0 && first + j < samples)
        demod[size_t(first + j) * out_channels + o] = A(1) / sqrt(sum[j] + eps);
    }
  }
}

// One thread takes every n-th element of the packed weight, which is where neighbours lie next to each other.
template <class T, bool kPack>
__global__ void __launch_bounds__(256)
    pack_weight_kernel(const void* __restrict__ from, void* __restrict__ to, uint32_t count, FastDiv inner,
                       FastDiv taps, uint32_t in_channels, bool transposed, bool flip, Accumulator<T> gain) {
  using A = Accumulator<T>;
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    uint32_t outer = at;
    const uint32_t fast = inner.split(outer), packed_tap = taps.split(outer);
    const uint32_t tap = flip ? taps.divisor - 1 - packed_tap : packed_tap;
    const uint32_t o = transposed ? fast : outer, i = transposed ? outer : fast;
    const size_t learned = (size_t{o} * in_channels + i) * taps.divisor + tap;
    if constexpr (kPack) {
      static_cast<T*>(to)[at] = narrow<T>(static_cast<const A*>(from)[learned] * gain);
    } else {
      static_cast<A*>(to)[learned] = widen(static_cast<const T*>(from)[at]) * gain;
    }
  }
}

template <bool kPack, class Launcher>
void run_pack_weight(const PackWeightParams& p, const Launcher& launch) {
  const char* op = kPack ? "pack_weight" : "unpack_weight";
  const int64_t count = p.out_channels * p.in_channels * p.taps;
  PYFACE_CHECK(count < launch.index_limit(), op, "weight", std::to_string(count) + " elements",
               "fewer than " + std::to_string(launch.index_limit()));
  if (count == 0) return;
  const int64_t blocks = std::min<int64_t>(ceil_div(count, 256), int64_t{launch.multiprocessors()} * 16);
  with_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    launch("pack_weight_kernel", pack_weight_kernel<T, kPack>, dim3(unsigned(blocks)), dim3(256), 0, p.from,
           p.to, uint32_t(count), FastDiv(uint32_t(p.transposed ? p.out_channels : p.in_channels)),
           FastDiv(uint32_t(p.taps)), uint32_t(p.in_channels), p.transposed, p.flip, Accumulator<T>(p.gain));
  });
}

template <class Launcher>
void run_modulate(const ModulateParams& p, const Launcher& launch) {
  const bool vectorizable = aligned16(p.x) && aligned16(p.scale) && aligned16(p.y);
  with_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const ModulateBody<T> body{static_cast<const T*>(p.x), static_cast<const Accumulator<T>*>(p.scale),
                               static_cast<T*>(p.y)};
    run_elementwise("modulate", body, p.n, p.c, p.hw, p.channels_last, vectorizable, launch);
  });
}

template <class Launcher>
void run_conv_epilogue(const ConvEpilogueParams& p, const Launcher& launch) {
  const bool vectorizable = aligned16(p.x) && aligned16(p.y) && aligned16(p.demod) && aligned16(p.noise) &&
                            aligned16(p.bias) && aligned16(p.next_style);
  with_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = Accumulator<T>;
    const auto go = [&](auto activation, auto body_type) {
      using Body = typename decltype(body_type)::type;
      const Body body{static_cast<const T*>(p.x),
                      static_cast<const A*>(p.demod),
                      static_cast<const A*>(p.noise),
                      static_cast<const A*>(p.bias),
                      static_cast<const A*>(p.next_style),
                      static_cast<T*>(p.y),
                      p.noise_per_sample,
                      activation};
      run_elementwise("conv_epilogue", body, p.n, p.c, p.hw, p.channels_last, vectorizable, launch);
    };
    if (is_piecewise(p.act)) {
      go(Activation<A, false>(p.act, p.alpha, p.gain, p.clamp), Type<ConvEpilogueBody<T, false>>{});
    } else {
      go(Activation<A, true>(p.act, p.alpha, p.gain, p.clamp), Type<ConvEpilogueBody<T, true>>{});
    }
  });
}

template <class Launcher>
void run_demodulate(const DemodulateParams& p, const Launcher& launch) {
  const char* op = "demodulate";
  PYFACE_CHECK(p.dtype == DType::kF32 || p.dtype == DType::kF64, op, "dtype", std::to_string(int(p.dtype)),
               "0 float32, 1 float64");
  for (int64_t size : {p.n, p.out_channels, p.in_channels}) {
    PYFACE_CHECK(size < kIndexLimit / 64, op, "sizes", std::to_string(size),
                 "fewer than 33554432 along each axis");
  }
  if (p.n == 0 || p.out_channels == 0) return;
  const auto go = [&](auto accumulator) {
    using A = decltype(accumulator);
    constexpr int kWarps = 8, kSamples = 4;
    const dim3 grid(unsigned(ceil_div(p.out_channels, kWarps)),
                    unsigned(std::min<int64_t>(ceil_div(p.n, kSamples), 65535)));
    const bool vectors = aligned16(p.weight_sq) && aligned16(p.styles) && p.in_channels % kVector<A> == 0;
    launch("demodulate_kernel",
           vectors ? demodulate_kernel<A, kVector<A>, kSamples> : demodulate_kernel<A, 1, kSamples>, grid,
           dim3(kWarps * 32), 0, static_cast<const A*>(p.weight_sq), static_cast<const A*>(p.styles),
           static_cast<A*>(p.demod), int(p.n), int(p.out_channels), int(p.in_channels), A(p.eps));
  };
  if (p.dtype == DType::kF64) {
    go(double{});
  } else {
    go(float{});
  }
}

}  // namespace pyface::dev
