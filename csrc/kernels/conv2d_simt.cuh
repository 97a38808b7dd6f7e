// The same convolution without tensor cores: float32, and 16-bit tensors whose rows are not 16-byte aligned.
#pragma once
#include "kernels/conv2d_geometry.cuh"

namespace pyface::dev {

constexpr int kSimtRows = 64, kSimtColumns = 64, kSimtDepth = 16, kSimtPitch = 68;
constexpr int kSimtTile = kSimtDepth * kSimtPitch;  // of one operand, [depth][row]
constexpr size_t kSimtSharedBytes = (4 * kSimtTile + 4 * kSimtRows) * 4;

// out[k] = from[k] for k < count (kN: all of them or none), else 0.
template <int kN, class T>
__device__ __forceinline__ void read_some(float (&out)[4], const T* from, int count) {
  if constexpr (kN == 4) {
    PYFACE_UNROLL
    for (int k = 0; k < 4; k++) out[k] = 0.f;
    if (count > 0) read_vector(from, out);
  } else {
    PYFACE_UNROLL
    for (int k = 0; k < 4; k++) out[k] = k < count ? widen(from[k]) : 0.f;
  }
}

// 256 threads compute 64x64, 4x4 each. kN = 4 where x, weight and y are aligned and channels come in fours.
template <class T, int kN>
__global__ void __launch_bounds__(256, 3) conv2d_simt_kernel(const ConvArguments<T> a) {
  PYFACE_SHARED(memory);
  const ConvShape& s = a.shape;
  const int thread = threadIdx.x;
  const ConvBlock block(s, kSimtRows, kSimtColumns);
  if (block.first_row >= block.rows()) return;
  float* tiles = reinterpret_cast<float*>(memory);  // x, weight; x, weight
  int* slots = reinterpret_cast<int*>(tiles + 4 * kSimtTile);
  int* pixels = slots + kSimtRows;
  // A thread copies 4 channels of one row of each operand.
  const int copy_row = thread >> 2, copy_channel = (thread & 3) * 4;
  const ConvRow own = locate_row(s, block, copy_row);
  if ((thread & 3) == 0) {
    slots[copy_row] = own.slot;
    pixels[copy_row] = own.pixel;
  }
  const int out_channel = block.column + copy_row, filter = s.kernel * s.kernel * s.in_channels;
  const T* weight = a.weight + size_t(out_channel) * filter;
  const float* style =
      a.style ? a.style + size_t(block.first_slot_image() + own.slot) * s.in_channels : nullptr;
  const ConvTurns turns(s, block, kSimtDepth);
  ConvWalk walk(s, block, turns, kSimtDepth);
  float next_x[4], next_w[4];
  const auto read = [&] {
    const int channel = walk.channel + copy_channel, rest = s.in_channels - channel;
    const bool in_x = own.taps >> walk.bit(block) & 1u, in_w = out_channel < s.out_channels;
    read_some<kN>(next_x, a.x + size_t(own.source + walk.source + uint32_t(copy_channel)), in_x ? rest : 0);
    read_some<kN>(next_w, weight + walk.weight + copy_channel, in_w ? rest : 0);
    if (style && in_x) {
      PYFACE_UNROLL
      for (int k = 0; k < 4; k++) next_x[k] *= k < rest ? style[channel + k] : 0.f;
    }
    walk.advance(s, block, kSimtDepth);
  };
  const auto store = [&](int buffer) {
    float* to = tiles + buffer * 2 * kSimtTile + copy_channel * kSimtPitch + copy_row;
    PYFACE_UNROLL
    for (int k = 0; k < 4; k++) {
      to[k * kSimtPitch] = next_x[k];
      to[kSimtTile + k * kSimtPitch] = next_w[k];
    }
  };
  const int row = thread >> 4 << 2, column = (thread & 15) << 2;
  float acc[4][4] = {};
  const int count = turns.count();
  if (count > 0) {
    read();
    store(0);
  }
  __syncthreads();
  PYFACE_NO_UNROLL
  for (int turn = 0; turn < count; turn++) {
    if (turn + 1 < count) read();
    const float* from = tiles + (turn & 1) * 2 * kSimtTile;
    PYFACE_UNROLL
    for (int k = 0; k < kSimtDepth; k++) {
      float x[4], w[4];
      read_vector(from + k * kSimtPitch + row, x);
      read_vector(from + kSimtTile + k * kSimtPitch + column, w);
      PYFACE_UNROLL
      for (int i = 0; i < 4; i++) {
        PYFACE_UNROLL
        for (int j = 0; j < 4; j++) acc[i][j] += x[i] * w[j];
      }
    }
    if (turn + 1 < count) store((turn + 1) & 1);
    __syncthreads();
  }
  const int o = block.column + column;
  const size_t split = size_t(blockIdx.z) * s.n * s.out_h * s.out_w;
  PYFACE_UNROLL
  for (int i = 0; i < 4; i++) {
    const int pixel = pixels[row + i];
    if (pixel < 0) continue;
    float (&v)[4] = acc[i];
    if (!a.partial) {
      const ConvEpilogue<false>& e = a.epilogue;
      const int n = block.first_slot_image() + slots[row + i];
      const float noise = e.noise ? e.noise[e.noise_per_sample ? pixel : pixel - n * s.out_h * s.out_w] : 0.f;
      PYFACE_UNROLL
      for (int j = 0; j < 4; j++) {
        if (o + j >= s.out_channels) continue;
        if (e.demod) v[j] *= e.demod[size_t(n) * s.out_channels + o + j];
        v[j] += noise;
        if (e.bias) v[j] += e.bias[o + j];
      }
      e.activation.apply(v);
      PYFACE_UNROLL
      for (int j = 0; j < 4; j++) {
        if (e.next_style && o + j < s.out_channels) v[j] *= e.next_style[size_t(n) * s.out_channels + o + j];
      }
    }
    const size_t at = size_t(pixel) * s.out_channels + o;
    if constexpr (kN == 4) {  // then channels come in fours
      if (o >= s.out_channels) continue;
      if (a.partial) {
        write_vector(a.partial + split * s.out_channels + at, v);
      } else {
        write_vector(a.y + at, v);
      }
    } else {
      PYFACE_UNROLL
      for (int j = 0; j < 4; j++) {
        if (o + j >= s.out_channels) continue;
        if (a.partial) {
          a.partial[split * s.out_channels + at + j] = v[j];
        } else {
          a.y[at + j] = narrow<T>(v[j]);
        }
      }
    }
  }
}

}  // namespace pyface::dev
