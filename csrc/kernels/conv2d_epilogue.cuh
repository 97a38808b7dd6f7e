// What becomes of a convolution's sums: the epilogue, heads (pictures made of its output), and the passes
// that do both where the convolution itself does not.
#pragma once
#include "kernels/activation.cuh"
#include "pyface/conv2d.h"

namespace pyface::dev {

// y = next_style * activation(sum * demod + noise + bias); each tensor float32, or null.
template <bool kSmooth>
struct ConvEpilogue {
  const float* demod;
  const float* noise;
  const float* bias;
  const float* next_style;
  bool noise_per_sample;
  Activation<float, kSmooth> activation;
};

// image[n, k] = base + clamp(sum_o weights[n, k, o] * v + bias[k]); base: see Conv2dParams.
struct Heads {
  const float* weights;
  const float* bias;
  const float* skip;
  const float* filter;
  float* image;
  int count;
  float clamp;
  bool add;
};

// One pixel of `plane`, [height / 2, width / 2], upsampled by two: zeros between its pixels, then the 4x4
// filter, turned as a convolution turns it. Of its 16 taps 4 meet pixels.
__device__ __forceinline__ float upsampled(const float* __restrict__ plane, const float* __restrict__ filter,
                                           int y, int x, int height, int width) {
  const int rows = height >> 1, columns = width >> 1;
  const int top = (y >> 1) - 1 + (y & 1), left = (x >> 1) - 1 + (x & 1);
  float sum = 0.f;
  PYFACE_UNROLL
  for (int a = 0; a < 2; a++) {
    PYFACE_UNROLL
    for (int b = 0; b < 2; b++) {
      const int row = top + a, column = left + b;
      if (row < 0 || row >= rows || column < 0 || column >= columns) continue;
      const float tap = filter[(3 - (y & 1) - 2 * a) * 4 + 3 - (x & 1) - 2 * b];
      sum += tap * plane[size_t(row) * columns + column];
    }
  }
  return 4.f * sum;
}

// Ends head k at pixel (y, x) of image n: `sum` is over the channels.
__device__ __forceinline__ void write_head(const Heads& h, float sum, int k, int n, int y, int x, int out_h,
                                           int out_w) {
  float v = sum + (h.bias ? h.bias[k] : 0.f);
  if (h.clamp >= 0.f) v = v > h.clamp ? h.clamp : v < -h.clamp ? -h.clamp : v;
  const size_t plane = size_t(n) * h.count + k;
  float* to = h.image + (plane * out_h + y) * out_w + x;
  if (h.skip) {
    v += upsampled(h.skip + plane * (out_h >> 1) * (out_w >> 1), h.filter, y, x, out_h, out_w);
  } else if (h.add) {
    v += *to;
  }
  *to = v;
}

// y of the sums of all splits, partial [splits, pixels, channels]: one thread an element, grid-stride.
template <class T, bool kSmooth>
__global__ void __launch_bounds__(256)
    conv2d_reduce_kernel(const float* __restrict__ partial, T* __restrict__ y, ConvEpilogue<kSmooth> e,
                         uint32_t count, int splits, FastDiv channels, FastDiv positions) {
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    uint32_t pixel = at;
    const uint32_t o = channels.split(pixel);
    uint32_t n = pixel;
    const uint32_t position = positions.split(n);
    float v[1] = {0.f};
    for (int s = 0; s < splits; s++) v[0] += partial[size_t(s) * count + at];
    const uint32_t row = n * channels.divisor + o;
    if (e.demod) v[0] *= e.demod[row];
    if (e.noise) v[0] += e.noise[e.noise_per_sample ? pixel : position];
    if (e.bias) v[0] += e.bias[o];
    e.activation.apply(v);
    if (e.next_style) v[0] *= e.next_style[row];
    y[at] = narrow<T>(v[0]);
  }
}

// Heads of y where the convolution does not make them: a warp takes kPixels pixels of one image at a time and
// sums over the channels, kN of them a lane, for up to kAtOnce heads.
template <class T, int kN>
__global__ void __launch_bounds__(256)
    conv2d_heads_kernel(const T* __restrict__ y, Heads h, int out_h, int out_w, int channels) {
  constexpr int kPixels = 4, kAtOnce = 4;
  const int lane = threadIdx.x & 31, n = blockIdx.y;
  const int positions = out_h * out_w;
  const int warps = int(gridDim.x * (blockDim.x >> 5));
  const T* image = y + size_t(n) * positions * channels;
  for (int first = int(blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * kPixels; first < positions;
       first += warps * kPixels) {
    for (int k0 = 0; k0 < h.count; k0 += kAtOnce) {
      float sum[kPixels][kAtOnce] = {};
      for (int o = lane * kN; o < channels; o += 32 * kN) {
        float weight[kAtOnce][kN];
        PYFACE_UNROLL
        for (int k = 0; k < kAtOnce; k++) {
          const int head = k0 + k < h.count ? k0 + k : h.count - 1;
          const float* from = h.weights + (size_t(n) * h.count + head) * channels + o;
          PYFACE_UNROLL
          for (int i = 0; i < kN; i += kN < 4 ? 1 : 4) {
            const auto in = *reinterpret_cast < const Vec<float, kN<4 ? 1 : 4>*>(from + i);
            PYFACE_UNROLL
            for (int q = 0; q < (kN < 4 ? 1 : 4); q++) weight[k][i + q] = in.v[q];
          }
        }
        PYFACE_UNROLL
        for (int p = 0; p < kPixels; p++) {
          const int position = first + p < positions ? first + p : positions - 1;
          float v[kN];
          read_vector(image + size_t(position) * channels + o, v);
          PYFACE_UNROLL
          for (int k = 0; k < kAtOnce; k++) {
            PYFACE_UNROLL
            for (int i = 0; i < kN; i++) sum[p][k] += weight[k][i] * v[i];
          }
        }
      }
      float own = 0.f;  // of pixel lane / kAtOnce and head lane % kAtOnce
      PYFACE_UNROLL
      for (int p = 0; p < kPixels; p++) {
        PYFACE_UNROLL
        for (int k = 0; k < kAtOnce; k++) {
          PYFACE_UNROLL
          for (int distance = 16; distance; distance >>= 1)
            sum[p][k] += __shfl_xor_sync(0xffffffffu, sum[p][k], distance);
          if (lane == p * kAtOnce + k) own = sum[p][k];
        }
      }
      const int position = first + lane / kAtOnce, k = k0 + lane % kAtOnce;
      if (lane < kPixels * kAtOnce && position < positions && k < h.count) {
        const int row = position / out_w;
        write_head(h, own, k, n, row, position - row * out_w, out_h, out_w);
      }
    }
  }
}

}  // namespace pyface::dev
