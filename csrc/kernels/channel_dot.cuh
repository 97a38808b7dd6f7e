// Sums over channels-last tensors: per sample and channel, per channel, per pixel; and the backward pass of
// conv_epilogue, which makes dx and all its sums while it reads dy and x once.
#pragma once
#include "kernels/activation.cuh"
#include "kernels/device.cuh"
#include "kernels/sum_rows.cuh"
#include "pyface/channel_dot.h"

namespace pyface::dev {

// What a kernel reads and writes. The sums are partial: [n, chunks, c], and [slices, n, hw] over channels.
template <class T>
struct ReductionArguments {
  const T* a;  // dy
  const T* b;  // x
  const float* demod;
  const float* noise;
  const float* bias;
  const float* next_style;
  T* dx;
  float* dot;    // of dz (or a) and b
  float* sum;    // of dz (or a)
  float* next;   // of dy and the epilogue's result before next_style
  float* place;  // of dz (or a) over channels
  FastDiv chunks;
  uint32_t n, channels, places, places_per_chunk;
  int lanes;  // lanes of a warp that read one pixel together: a power of 2
  bool noise_per_sample;
};

// Which sums a kernel is for.
enum class Sums : int {
  kPlain,      // of a and b as they are
  kPiecewise,  // of dz, for the piecewise-linear activations
  kSmooth      // of dz, for the others
};

template <int N>
__device__ __forceinline__ void fill_values(float (&v)[N], float value) {
  PYFACE_UNROLL
  for (int k = 0; k < N; k++) v[k] = value;
}

// Sums what the threads of a block hold of the same channels into partial[sample, chunk, channel...]: over
// the pixels of a warp by shuffles, over the warps in shared memory, both in a fixed order.
template <int kN>
__device__ __forceinline__ void add_up_pixels(float (&v)[kN], float* to, float* shared, int lanes,
                                              uint32_t first_channel, uint32_t channels) {
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5;
  for (int distance = lanes; distance < 32; distance <<= 1) {
    PYFACE_UNROLL
    for (int k = 0; k < kN; k++) v[k] += __shfl_xor_sync(0xffffffffu, v[k], distance);
  }
  const int own = lanes * kN;
  if (lane < lanes) {
    PYFACE_UNROLL
    for (int k = 0; k < kN; k++) shared[warp * own + lane * kN + k] = v[k];
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < own; i += 256) {
    float sum = shared[i];
    PYFACE_UNROLL
    for (int w = 1; w < 8; w++) sum += shared[w * own + i];
    if (first_channel + i < channels) to[first_channel + i] = sum;
  }
  __syncthreads();
}

// Block (chunk of a sample, slice of channels): 256 / lanes pixels at a time.
template <class T, int kN, Sums kSums>
__global__ void __launch_bounds__(256)
    reduction_kernel(const ReductionArguments<T> p,
                     const Activation<float, kSums == Sums::kSmooth> activation) {
  constexpr bool kDerive = kSums != Sums::kPlain;
  PYFACE_SHARED(memory);
  float* shared = reinterpret_cast<float*>(memory);
  uint32_t sample = blockIdx.x;
  const uint32_t chunk = p.chunks.split(sample);
  const int lane_in_pixel = int(threadIdx.x) & (p.lanes - 1);
  const uint32_t first_channel = blockIdx.y * (p.lanes * kN), channel = first_channel + lane_in_pixel * kN;
  const uint32_t at_once = 256 / p.lanes, own = threadIdx.x / p.lanes;
  const uint32_t first = chunk * p.places_per_chunk;
  const uint32_t last = first + p.places_per_chunk < p.places ? first + p.places_per_chunk : p.places;
  const bool mine = channel < p.channels;
  const size_t table = size_t{sample} * p.channels + channel;

  float demod[kN], bias[kN], next_style[kN], dot[kN] = {}, sum[kN] = {}, next[kN] = {};
  fill_values(demod, 1.f), fill_values(bias, 0.f), fill_values(next_style, 1.f);
  if (kDerive && mine) {
    if (p.demod) read_vector(p.demod + table, demod);
    if (p.bias) read_vector(p.bias + channel, bias);
    if (p.next_style) read_vector(p.next_style + table, next_style);
  }
  for (uint32_t base = first; base < last; base += at_once) {
    const uint32_t place = base + own;
    const bool there = mine && place < last;
    const size_t pixel = size_t{sample} * p.places + place, at = pixel * p.channels + channel;
    float a[kN], b[kN];
    fill_values(a, 0.f), fill_values(b, 0.f);
    if (there) {
      read_vector(p.a + at, a);
      if (p.b) read_vector(p.b + at, b);
    }
    if constexpr (kDerive) {
      float u[kN], slope[kN];
      const float noise = p.noise && there ? p.noise[p.noise_per_sample ? pixel : size_t{place}] : 0.f;
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) u[k] = b[k] * demod[k] + noise + bias[k];
      if (kSums == Sums::kPiecewise || activation.act != Act::kSwish) {  // swish's slope reads z itself
        activation.apply(u);
        PYFACE_UNROLL
        for (int k = 0; k < kN; k++) u[k] = widen(narrow<T>(u[k]));  // as the forward pass rounded it
      }
      activation.derivative(u, slope);
      if (p.next) {
        if (kSums == Sums::kSmooth && activation.act == Act::kSwish) activation.apply(u);
        PYFACE_UNROLL
        for (int k = 0; k < kN; k++) next[k] += a[k] * u[k];
      }
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) a[k] *= next_style[k] * slope[k];
      if (p.dx && there) {
        PYFACE_UNROLL
        for (int k = 0; k < kN; k++) u[k] = a[k] * demod[k];
        write_vector(p.dx + at, u);
      }
    }
    PYFACE_UNROLL
    for (int k = 0; k < kN; k++) dot[k] += a[k] * b[k], sum[k] += a[k];
    if (p.place) {
      float over_channels = a[0];
      PYFACE_UNROLL
      for (int k = 1; k < kN; k++) over_channels += a[k];
      for (int distance = 1; distance < p.lanes; distance <<= 1)
        over_channels += __shfl_xor_sync(0xffffffffu, over_channels, distance);
      if (lane_in_pixel == 0 && place < last) {
        p.place[size_t{blockIdx.y} * p.n * p.places + pixel] = over_channels;
      }
    }
  }
  const size_t to = size_t{blockIdx.x} * p.channels;  // blockIdx.x counts [sample, chunk]
  if (p.dot) add_up_pixels(dot, p.dot + to, shared, p.lanes, first_channel, p.channels);
  if (p.sum) add_up_pixels(sum, p.sum + to, shared, p.lanes, first_channel, p.channels);
  if (kDerive && p.next) add_up_pixels(next, p.next + to, shared, p.lanes, first_channel, p.channels);
}

// The outputs of a reduction; where a second pass is needed, the first one writes to the workspace.
struct ReductionOutputs {
  float* dot;
  float* sum;
  float* next;
  float* place;
  float* workspace;
  bool per_sample;
};

template <class T, Sums kSums, class Launcher>
void run_reduction(const char* op, ReductionArguments<T> a, const ReductionOutputs& out, int64_t n, int64_t c,
                   int64_t hw, int64_t chunks, const Activation<float, kSums == Sums::kSmooth>& activation,
                   DType dtype, const Launcher& launch) {
  constexpr int kWide = kVector<T>;
  const bool wide = c % kWide == 0;
  PYFACE_CHECK(!wide || (aligned16(a.a) && aligned16(a.b) && aligned16(a.dx) && aligned16(a.demod) &&
                         aligned16(a.bias) && aligned16(a.next_style)),
               op, "a tensor", "at an address that is no multiple of 16",
               "16-byte aligned tensors where channels fill 16 bytes");
  const int64_t slices = channel_dot_slices(dtype, c);
  const int64_t part = ceil_div(n * chunks * c, 4) * 4;
  a.dot = out.dot && chunks > 1 ? out.workspace : out.dot;
  a.next = out.next && chunks > 1 ? out.workspace + part : out.next;
  a.sum = out.sum && n * chunks > 1 ? out.workspace + 2 * part : out.sum;
  const bool add_places = out.place && (slices > 1 || (!out.per_sample && n > 1));
  a.place = add_places ? out.workspace + 3 * part : out.place;
  a.n = uint32_t(n), a.channels = uint32_t(c), a.places = uint32_t(hw), a.chunks = FastDiv(uint32_t(chunks));
  a.places_per_chunk = uint32_t(ceil_div(hw, chunks));
  a.lanes = 1;
  while (a.lanes < 32 && a.lanes * (wide ? kWide : 1) < c) a.lanes *= 2;
  const auto go = [&](auto kernel, int width, const char* name) {
    launch(name, kernel, dim3(unsigned(n * chunks), unsigned(slices)), dim3(256),
           size_t(8 * a.lanes * width) * sizeof(float), a, activation);
  };
  wide ? go(reduction_kernel<T, kWide, kSums>, kWide, "reduction_kernel")
       : go(reduction_kernel<T, 1, kSums>, 1, "reduction_kernel (single)");
  if (a.dot != out.dot) run_sum_rows(a.dot, out.dot, n, chunks, c, launch);
  if (a.next != out.next) run_sum_rows(a.next, out.next, n, chunks, c, launch);
  if (a.sum != out.sum) run_sum_rows(a.sum, out.sum, 1, n * chunks, c, launch);
  if (add_places && out.per_sample) {
    run_sum_rows(a.place, out.place, 1, slices, n * hw, launch);
  } else if (add_places) {
    run_sum_rows(a.place, out.place, 1, slices * n, hw, launch);
  }
}

template <class F>
void with_kernel_type(DType dtype, F&& f) {
  if (dtype == DType::kF32) return f(Type<float>{});
  if (dtype == DType::kBF16) return f(Type<__nv_bfloat16>{});
  f(Type<__half>{});
}

template <class Launcher>
void run_channel_dot(const ChannelDotParams& p, const Launcher& launch) {
  if (p.n * p.c * p.hw == 0) return;
  with_kernel_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    ReductionArguments<T> a{};
    a.a = static_cast<const T*>(p.a);
    a.b = p.dot ? static_cast<const T*>(p.b) : nullptr;
    const ReductionOutputs out{p.dot, p.sum, nullptr, p.place_sum, p.workspace, p.per_sample};
    run_reduction<T, Sums::kPlain>("channel_dot", a, out, p.n, p.c, p.hw, p.chunks,
                                   Activation<float, false>(Act::kLinear, 0, 1, -1), p.dtype, launch);
  });
}

template <class Launcher>
void run_conv_epilogue_grad(const ConvEpilogueGradParams& p, const Launcher& launch) {
  if (p.n * p.c * p.hw == 0) return;
  with_kernel_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    ReductionArguments<T> a{};
    a.a = static_cast<const T*>(p.dy);
    a.b = static_cast<const T*>(p.x);
    a.demod = p.demod, a.noise = p.noise, a.bias = p.bias, a.next_style = p.next_style;
    a.dx = static_cast<T*>(p.dx);
    a.noise_per_sample = p.noise_per_sample;
    const ReductionOutputs out{p.d_demod, p.d_bias, p.d_next, p.d_noise, p.workspace, p.noise_per_sample};
    if (is_piecewise(p.act)) {
      run_reduction<T, Sums::kPiecewise>("conv_epilogue_grad", a, out, p.n, p.c, p.hw, p.chunks,
                                         Activation<float, false>(p.act, p.alpha, p.gain, p.clamp), p.dtype,
                                         launch);
    } else {
      run_reduction<T, Sums::kSmooth>("conv_epilogue_grad", a, out, p.n, p.c, p.hw, p.chunks,
                                      Activation<float, true>(p.act, p.alpha, p.gain, p.clamp), p.dtype,
                                      launch);
    }
  });
}

}  // namespace pyface::dev
