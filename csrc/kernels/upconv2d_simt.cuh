// An up-sampling synthesis layer without tensor cores: float32, and 16-bit types whose channels or addresses
// do not allow copies of 16 bytes.
#pragma once
#include "kernels/upconv2d_steps.cuh"

namespace pyface::dev {

// A warp takes a row of 10 positions, a lane one output channel of it; u is float32.
using UpconvSimtStep = UpconvStep<10, 8, 32>;
constexpr int kUpconvSimtThreads = UpconvSimtStep::kRows * UpconvSimtStep::kChannels;
constexpr int kUpconvSimtDepth = 16;  // input channels a turn
constexpr int kUpconvSimtPatch = UpconvSimtStep::kPositions + UpconvSimtStep::kWidth + 1;  // pixels of x
constexpr int kUpconvSimtStage = (kUpconvSimtPatch + 9 * UpconvSimtStep::kChannels) * kUpconvSimtDepth;
static_assert(UpconvSimtStep::kCarried + kUpconvSimtStage <=
                  UpconvSimtStep::kOutRows * UpconvSimtStep::kMapRow,
              "the stage leaves the rows to carry alone");
constexpr size_t kUpconvSimtSharedBytes = UpconvSimtStep::kMap * sizeof(float);

// u as it is: channels innermost.
struct UpconvSimtLayout {
  static __device__ __forceinline__ int at(int pixel, int chunk) {
    return pixel * UpconvSimtStep::kChannels + chunk * kVector<float>;
  }
};

// Copies 16 channels of the patch, styled, and of the weight's taps into `stage`: patch [pixel][channel],
// taps [tap][channel / 4][output channel][channel % 4].
template <class T>
__device__ __forceinline__ void load_simt_stage(float* stage, const UpconvArguments<T>& a,
                                                const UpconvBlock<UpconvSimtStep>& block, int row,
                                                int first_channel) {
  constexpr int kDepth = kUpconvSimtDepth;
  const UpconvShape& s = a.shape;
  const T* x = a.x + size_t(block.sample) * s.h * s.w * s.in_channels;
  const int i = int(threadIdx.x) % kDepth, channel = first_channel + i;
  const bool inside = channel < s.in_channels;
  float style = inside ? 1.f : 0.f;
  if (inside && a.style) style = a.style[size_t(block.sample) * s.in_channels + channel];
  for (int pixel = int(threadIdx.x) / kDepth; pixel < kUpconvSimtPatch;
       pixel += kUpconvSimtThreads / kDepth) {
    const int source = block.patch_source(s, pixel, row);
    stage[pixel * kDepth + i] = inside && source >= 0 ? widen(x[source + channel]) * style : 0.f;
  }
  float* taps = stage + kUpconvSimtPatch * kDepth;
  for (int at = int(threadIdx.x) / kDepth; at < 9 * UpconvSimtStep::kChannels;
       at += kUpconvSimtThreads / kDepth) {
    const int tap = at / UpconvSimtStep::kChannels, o = at % UpconvSimtStep::kChannels;
    const bool ok = inside && block.channel + o < s.out_channels;
    taps[((tap * (kDepth / 4) + i / 4) * UpconvSimtStep::kChannels + o) * 4 + i % 4] =
        ok ? widen(a.weight[(size_t(block.channel + o) * 9 + tap) * s.in_channels + channel]) : 0.f;
  }
}

// sums[phase][column] += 4 channels of all taps. `patch`: this row's pixels, from column 0 on.
__device__ __forceinline__ void multiply_simt(float (&sums)[4][UpconvSimtStep::kWidth], const float* patch,
                                              const float* taps) {
  constexpr int kWidth = UpconvSimtStep::kWidth, kTap = kUpconvSimtDepth * UpconvSimtStep::kChannels;
  float w[9][4];
  PYFACE_UNROLL
  for (int tap = 0; tap < 9; tap++) read_vector(taps + tap * kTap, w[tap]);
  PYFACE_UNROLL
  for (int dy = 0; dy < 2; dy++) {
    PYFACE_UNROLL
    for (int column = 0; column < kWidth; column++) {
      float v[4];
      read_vector(patch + (column - dy * kWidth) * kUpconvSimtDepth, v);
      PYFACE_UNROLL
      for (int phase = 0; phase < 4; phase++) {
        PYFACE_UNROLL
        for (int dx = 0; dx < 2; dx++) {
          const int ky = (phase >> 1) + 2 * dy, kx = (phase & 1) + 2 * dx;
          if (ky > 2 || kx > 2 || column + dx >= kWidth) continue;
          PYFACE_UNROLL
          for (int c = 0; c < 4; c++) sums[phase][column + dx] += v[c] * w[ky * 3 + kx][c];
        }
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kUpconvSimtThreads) upconv2d_simt_kernel(const UpconvArguments<T> a) {
  using Step = UpconvSimtStep;
  PYFACE_SHARED(memory);
  const UpconvShape& s = a.shape;
  const UpconvBlock<Step> block(s);
  float* u = reinterpret_cast<float*>(memory);
  float* stage = u + Step::kCarried;
  const int lane = threadIdx.x % Step::kChannels, own_row = threadIdx.x / Step::kChannels;
  const int o = block.channel + lane;
  const float* patch = stage + (1 + (own_row + 1) * Step::kWidth) * kUpconvSimtDepth;
  const float* taps = stage + kUpconvSimtPatch * kUpconvSimtDepth + lane * 4;
  float demod = 1.f;
  if (a.epilogue.demod && o < s.out_channels)
    demod = a.epilogue.demod[size_t(block.sample) * s.out_channels + o];

  walk_down<Step, UpconvSimtLayout, kUpconvSimtThreads, false>(u, block, a, [&](int row) {
    float sums[4][Step::kWidth] = {};
    PYFACE_NO_UNROLL
    for (int channel = 0; channel < s.in_channels; channel += kUpconvSimtDepth) {
      load_simt_stage(stage, a, block, row, channel);
      __syncthreads();
      PYFACE_NO_UNROLL
      for (int c = 0; c < kUpconvSimtDepth; c += 4)
        multiply_simt(sums, patch + c, taps + c * Step::kChannels);
      __syncthreads();
    }
    PYFACE_UNROLL
    for (int phase = 0; phase < 4; phase++) {
      const int map_row = Step::kCarriedRows + 2 * own_row + (phase >> 1);
      PYFACE_UNROLL
      for (int column = 0; column < Step::kWidth; column++)
        u[Step::pixel(map_row, phase & 1, column) * Step::kChannels + lane] = sums[phase][column] * demod;
    }
  });
}

}  // namespace pyface::dev
