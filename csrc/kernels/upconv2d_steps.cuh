// How an up-sampling layer is cut, and what follows the products: the filter and the epilogue from shared
// memory.
//
// The transposed convolution u has four phases (a, b): pixels (2 i + a, 2 j + b) of position (i, j), with 4,
// 2, 2 and 1 taps, 9 products a position like the convolution itself. A block owns some output channels and a
// strip of the picture and walks down it in steps of kRows positions. A step leaves 2 kRows rows of u in
// shared memory below the last three of the step before, so that only the strip's sides and its top are
// computed twice: (kWidth / (kWidth - 2)) * (steps kRows / (steps kRows - 2)) times the products of the
// layer.
//
// Positions of a step are numbered row by row. The pixels of x they take lie in shared memory row by row as
// well, without a gap, so that neighbour (i - dy, j - dx) of position p is always pixel
// p + 1 + kWidth - dy kWidth - dx. In the leftmost column that is the end of the row above where dx is 1:
// these sums are even pixels of u that no output takes.
#pragma once
#include "kernels/conv2d_epilogue.cuh"
#include "kernels/device.cuh"
#include "pyface/upconv2d.h"

namespace pyface::dev {

struct UpconvShape {
  int h, w, in_channels, out_channels;
  int steps;
  bool filter_is_matrix;
  FastDiv channel_tiles, column_tiles, segments;
};

template <class T>
struct UpconvArguments {
  const T* x;
  const T* weight;
  const float* style;
  const float* filter;
  T* y;
  UpconvShape shape;
  ConvEpilogue<false> epilogue;
};

// A step's positions, and the memory they need.
template <int kWidth_, int kRows_, int kChannels_>
struct UpconvStep {
  static constexpr int kWidth = kWidth_, kRows = kRows_, kChannels = kChannels_;
  static constexpr int kPositions = kWidth * kRows;
  static constexpr int kOutRows = 2 * kRows, kPairs = kWidth - 2;  // output pixels side by side go in pairs
  static constexpr int kCarriedRows = 3, kMapRows = kOutRows + kCarriedRows;
  static constexpr int kMapRow = 2 * kWidth * kChannels;  // elements: even columns, then odd ones
  static constexpr int kCarried = kCarriedRows * kMapRow, kMap = kMapRows * kMapRow;

  // Pixel of u: phase (a, b) of position (row, column) of the step; row -2 and -1: of the step before.
  static __device__ __forceinline__ int pixel(int map_row, int b, int column) {
    return (map_row * 2 + b) * kWidth + column;
  }
};

// The part of the work that one block does.
template <class Step>
struct UpconvBlock {
  int sample, channel;          // the first of Step::kChannels
  int first_row, first_column;  // position of the first step's corner
  int out_begin, out_end;       // rows of y

  __device__ __forceinline__ explicit UpconvBlock(const UpconvShape& s) {
    uint32_t rest = blockIdx.x;
    channel = int(s.channel_tiles.split(rest)) * Step::kChannels;
    first_column = int(s.column_tiles.split(rest)) * Step::kPairs - 1;
    const int segment = int(s.segments.split(rest)), rows = s.steps * Step::kRows - 2;
    sample = int(rest);
    first_row = segment * rows;
    out_begin = segment ? 2 * first_row + 2 : 0;
    const int end = 2 * (first_row + rows) + 2;
    out_end = end < 2 * s.h ? end : 2 * s.h;
  }
  // Rows of positions, of a step that begins with this one, that outputs need. A step gives rows of y from 2
  // row - 2 on, and row 2 r - 2 is the first that needs position r.
  __device__ __forceinline__ int rows_needed(int row) const {
    const int rows = (out_end + 3) / 2 - row;
    return rows < 0 ? 0 : rows < Step::kRows ? rows : Step::kRows;
  }
  // Where pixel `at` of the patch of x lies for the step that begins with row `row`: elements from the
  // sample's begin, or -1 outside of the picture.
  __device__ __forceinline__ int patch_source(const UpconvShape& s, int at, int row) const {
    const int i = (at + Step::kWidth - 1) / Step::kWidth - 1, j = at - 1 - i * Step::kWidth;
    const int y = row - 1 + i, x = first_column + j;
    const bool inside = at > 0 && unsigned(y) < unsigned(s.h) && unsigned(x) < unsigned(s.w);
    return inside ? (y * s.w + x) * s.in_channels : -1;
  }
};

// The low-pass filter as two vectors, turned, with the gain of 4 that doubling the size asks for.
struct UpconvFilter {
  float down[4], across[4];

  __device__ __forceinline__ UpconvFilter(const float* __restrict__ filter, bool is_matrix) {
    PYFACE_UNROLL
    for (int k = 0; k < 4; k++) {
      down[k] = across[k] = 2.f * filter[3 - k];
    }
    if (!is_matrix) return;
    float sum = 0.f;  // an outer product is its row sums times its column sums over its sum
    PYFACE_UNROLL
    for (int k = 0; k < 4; k++) {
      down[k] = across[k] = 0.f;
      PYFACE_UNROLL
      for (int j = 0; j < 4; j++) {
        down[k] += 2.f * filter[(3 - k) * 4 + j];
        across[k] += 2.f * filter[j * 4 + 3 - k];
      }
      sum += 0.5f * down[k];
    }
    PYFACE_UNROLL
    for (int k = 0; k < 4; k++) across[k] /= sum;
  }
};

// The rows of u before the first row of the picture are 0. Threads of the block write them together.
template <class Step, class U>
__device__ __forceinline__ void clear_carried(U* u) {
  for (int at = threadIdx.x; at < Step::kCarried; at += blockDim.x) u[at] = narrow<U>(0.f);
}

// The last rows of u become the first ones of the next step. Swizzles repeat after 8 pixels.
template <class Step, class U>
__device__ __forceinline__ void carry(U* u) {
  static_assert(Step::kOutRows * Step::kWidth * 2 % 8 == 0, "rows keep their swizzle");
  constexpr int kN = kVector<U>;
  for (int at = threadIdx.x * kN; at < Step::kCarried; at += blockDim.x * kN) {
    *reinterpret_cast<Vec<U, kN>*>(u + at) =
        *reinterpret_cast<const Vec<U, kN>*>(u + Step::kOutRows * Step::kMapRow + at);
  }
}

// y of the rows of u that a step has left: filter, epilogue, store. A thread owns kN channels of a pair of
// columns and some rows; it filters across, keeps four rows, and filters down. `Layout::at(pixel, chunk)`
// says where kN channels of a pixel of u lie. kVectors: channels and y allow 16-byte stores.
template <class Step, class Layout, int kThreads, bool kVectors, class T, class U>
__device__ __forceinline__ void filter_rows(const U* u, const UpconvBlock<Step>& block, int first_row,
                                            const UpconvArguments<T>& a) {
  constexpr int kN = kVector<U>, kChunks = Step::kChannels / kN;
  constexpr int kGroups = kThreads / (kChunks * Step::kPairs);
  constexpr int kGroupRows = (Step::kOutRows + kGroups - 1) / kGroups;
  static_assert(kGroups >= 1 && kChunks * Step::kPairs % 32 == 0, "warps work on one group of rows");
  const UpconvShape& s = a.shape;
  const ConvEpilogue<false>& e = a.epilogue;
  // kept: addresses that are the same at every step would else be computed before the first one, and spill.
  const int thread = kept(threadIdx.x), chunk = thread % kChunks, pair = thread / kChunks % Step::kPairs;
  const int top = thread / (kChunks * Step::kPairs) * kGroupRows, out_top = 2 * first_row - 2 + top;
  const int o = block.channel + chunk * kN, x = 2 * (block.first_column + 1 + pair), width = 2 * s.w;
  if (top >= Step::kOutRows || o >= s.out_channels || x >= width) return;

  const int begin = block.out_begin - out_top, end = block.out_end - out_top;  // of this thread's rows
  const size_t first_pixel = size_t(block.sample) * 2 * s.h * width;
  float noise[kGroupRows][2] = {};
  if (e.noise) {
    const float* from = e.noise + (e.noise_per_sample ? first_pixel : 0) + x;
    PYFACE_UNROLL
    for (int k = 0; k < kGroupRows; k++) {
      if (k < begin || k >= end) continue;
      noise[k][0] = from[(out_top + k) * width];
      noise[k][1] = from[(out_top + k) * width + 1];
    }
  }
  const UpconvFilter filter(a.filter, s.filter_is_matrix);
  float bias[kN], next[kN];
  PYFACE_UNROLL
  for (int k = 0; k < kN; k++) {
    const bool ok = kVectors || o + k < s.out_channels;
    bias[k] = ok && e.bias ? e.bias[o + k] : 0.f;
    next[k] = ok && e.next_style ? e.next_style[size_t(block.sample) * s.out_channels + o + k] : 1.f;
  }
  T* y = a.y + (int64_t(first_pixel) + int64_t(out_top) * width + x) * s.out_channels + o;

  float across[4][2][kN];
  PYFACE_UNROLL
  for (int k = -3; k < kGroupRows; k++) {  // row k needs rows top + k to top + k + 3 of u
    if (top + k >= Step::kOutRows || k >= end) break;
    PYFACE_UNROLL
    for (int c = 0; c < 5; c++) {  // columns x - 1 to x + 3
      float v[kN];
      read_vector(u + Layout::at(Step::pixel(top + k + 3, (c + 1) & 1, pair + (c + 1) / 2), chunk), v);
      PYFACE_UNROLL
      for (int b = 0; b < 2; b++) {
        if (c - b < 0 || c - b > 3) continue;
        PYFACE_UNROLL
        for (int i = 0; i < kN; i++) {
          float& sum = across[k & 3][b][i];
          sum = c == b ? filter.across[0] * v[i] : sum + filter.across[c - b] * v[i];
        }
      }
    }
    if (k < 0 || k < begin) continue;
    PYFACE_UNROLL
    for (int b = 0; b < 2; b++) {
      float v[kN];
      PYFACE_UNROLL
      for (int i = 0; i < kN; i++) {
        v[i] = bias[i] + noise[k][b];
        PYFACE_UNROLL
        for (int r = 0; r < 4; r++) v[i] += filter.down[r] * across[(k + 1 + r) & 3][b][i];
      }
      e.activation.apply(v);
      PYFACE_UNROLL
      for (int i = 0; i < kN; i++) v[i] *= next[i];
      T* to = y + (k * width + b) * s.out_channels;
      if (kVectors) {
        write_vector(to, v);
      } else {
        PYFACE_UNROLL
        for (int i = 0; i < kN; i++)
          if (o + i < s.out_channels) to[i] = narrow<T>(v[i]);
      }
    }
  }
}

// Walks down the block's strip: products(row) leaves the step that begins with this row of positions in u.
// Before its first barrier it must leave the first and the last kCarriedRows rows of u alone: threads carry
// them over.
template <class Step, class Layout, int kThreads, bool kVectors, class T, class U, class Products>
__device__ __forceinline__ void walk_down(U* u, const UpconvBlock<Step>& block, const UpconvArguments<T>& a,
                                          const Products& products) {
  clear_carried<Step>(u);
  PYFACE_NO_UNROLL
  for (int row = block.first_row;; row += Step::kRows) {
    products(row);
    __syncthreads();  // all of u is there
    filter_rows<Step, Layout, kThreads, kVectors>(u, block, row, a);
    if (block.rows_needed(row + Step::kRows) == 0) break;
    __syncthreads();  // all have read the rows that are replaced
    carry<Step>(u);
  }
}

}  // namespace pyface::dev
