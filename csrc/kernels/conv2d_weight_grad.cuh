// The weight gradient of a convolution as a matrix product over pixels: dw[row, tap, column] sums, over the
// pixels of the tensor that gives the rows, its channel `row` times the other tensor's channel `column` at
// the place that the tap looks at. Both operands lie in shared memory as [pixel][channel], as they do in
// global memory; ldmatrix.trans turns them into fragments.
#pragma once
#include <type_traits>

#include "kernels/mma_tiles.cuh"
#include "kernels/sum_rows.cuh"
#include "pyface/conv2d_weight_grad.h"

namespace pyface::dev {

template <class T>
struct WeightGradArguments {
  const T* rows;     // [samples, places, row_channels]
  const T* columns;  // [samples, height, width, column_channels]
  const float* row_scale;
  const float* column_scale;
  T* dw;           // [row_channels, taps, column_channels]; null when `partial` takes the sums
  float* partial;  // [splits, row_channels, taps, column_channels]
  // A tile of pixels lies in one segment: a sample where there are scales, else all samples together.
  FastDiv tiles_per_segment, row_width, row_places, chunks_per_tap, kernel_width;
  uint32_t segment_pixels, tiles, tiles_per_split;
  int row_channels, column_channels, taps, height, width, stride, pad_y, pad_x;
};

// A block's tile: kRows x kColumns of dw, kPixels deep; kWarpRows x kWarpColumns a warp; kStages in flight.
template <class T, int kRows_, int kColumns_, int kPixels_, int kThreads_, int kStages_>
struct WeightGradShape {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kPixels = kPixels_, kThreads = kThreads_;
  static constexpr int kStages = kStages_, kChunk = kVector<T>;
  // Tensor cores read swizzled rows; float32 rows are 16 bytes longer than their channels, so that those of
  // neighbouring pixels lie in different banks.
  static constexpr bool kSwizzled = sizeof(T) == 2;
  static constexpr int kRowStep = kSwizzled ? kRows : kRows + kChunk;
  static constexpr int kColumnStep = kSwizzled ? kColumns : kColumns + kChunk;
  static constexpr int kStage = kPixels * (kRowStep + kColumnStep);
  static constexpr size_t kSharedBytes = size_t{kStages} * kStage * sizeof(T);
  static constexpr int kRowChunks = kRows / kChunk, kColumnChunks = kColumns / kChunk;
  static constexpr int kRowCopies = kPixels * kRowChunks / kThreads;
  static constexpr int kColumnCopies = kPixels * kColumnChunks / kThreads;
  static_assert(kPixels * kRowChunks % kThreads == 0 && kPixels * kColumnChunks % kThreads == 0,
                "every thread copies the same number of chunks");
  static_assert(kThreads % kRowChunks == 0 && kThreads % kColumnChunks == 0,
                "a thread keeps its channels from copy to copy");

  // Where chunk `chunk` of a pixel lies in the tile of rows and in that of columns.
  static __device__ __forceinline__ int row_at(int pixel, int chunk) {
    if constexpr (kSwizzled) return Swizzle<kRows>::at(pixel, chunk);
    return pixel * kRowStep + chunk * kChunk;
  }
  static __device__ __forceinline__ int column_at(int pixel, int chunk) {
    if constexpr (kSwizzled) return Swizzle<kColumns>::at(pixel, chunk);
    return pixel * kColumnStep + chunk * kChunk;
  }
};

// Copies one chunk of channels: asynchronously, or element by element where channels or addresses do not fill
// 16 bytes. `count` elements are there, the rest is 0; `from` is not read when there are none.
template <bool kAligned, class T>
__device__ __forceinline__ void copy_chunk(T* to, const T* from, int count) {
  if constexpr (kAligned) {
    async_copy16(to, from, count > 0 ? 16 : 0);
  } else {
    Vec<T, kVector<T>> chunk;
    PYFACE_UNROLL
    for (int k = 0; k < kVector<T>; k++) chunk.v[k] = k < count ? from[k] : narrow<T>(0.f);
    *reinterpret_cast<Vec<T, kVector<T>>*>(to) = chunk;
  }
}

// What one thread copies of every tile.
template <class T, class Shape, bool kAligned>
struct WeightGradLoader {
  const WeightGradArguments<T>& p;
  int row, row_count;  // first channel of this thread's row chunks, and how many there are
  int column, column_count, tap_y, tap_x;  // the same of its column chunks, and their tap's offset

  __device__ __forceinline__ WeightGradLoader(const WeightGradArguments<T>& arguments, int first_row,
                                              uint32_t first_chunk)
      : p(arguments) {
    constexpr int kChunk = Shape::kChunk;
    row = first_row + int(threadIdx.x) % Shape::kRowChunks * kChunk;
    row_count = min_of(kChunk, p.row_channels - row);
    uint32_t tap = first_chunk + threadIdx.x % Shape::kColumnChunks;
    column = int(p.chunks_per_tap.split(tap)) * kChunk;
    column_count = int(tap) < p.taps ? min_of(kChunk, p.column_channels - column) : 0;
    tap_x = int(p.kernel_width.split(tap)) - p.pad_x;
    tap_y = int(tap) - p.pad_y;
  }
  __device__ __forceinline__ static int min_of(int a, int b) { return a < b ? a : b; }

  __device__ __forceinline__ void operator()(uint32_t tile, T* stage) const {
    const uint32_t segment = p.tiles_per_segment(tile);
    const uint32_t first = (tile - segment * p.tiles_per_segment.divisor) * Shape::kPixels;
    const uint32_t base = segment * p.segment_pixels;
    PYFACE_UNROLL
    for (int i = 0; i < Shape::kRowCopies; i++) {
      const uint32_t at = (threadIdx.x + i * Shape::kThreads) / Shape::kRowChunks;
      const int count = first + at < p.segment_pixels ? row_count : 0;
      const T* from = p.rows + (count > 0 ? size_t{base + first + at} * p.row_channels + row : size_t{0});
      copy_chunk<kAligned>(stage + Shape::row_at(int(at), int(threadIdx.x) % Shape::kRowChunks), from, count);
    }
    stage += Shape::kPixels * Shape::kRowStep;
    PYFACE_UNROLL
    for (int i = 0; i < Shape::kColumnCopies; i++) {
      const uint32_t at = (threadIdx.x + i * Shape::kThreads) / Shape::kColumnChunks;
      uint32_t sample = base + first + at;
      const int x = int(p.row_width.split(sample)) * p.stride + tap_x;
      const int y = int(p.row_places.split(sample)) * p.stride + tap_y;
      const bool there = first + at < p.segment_pixels && unsigned(y) < unsigned(p.height) &&
                         unsigned(x) < unsigned(p.width);
      const int count = there ? column_count : 0;
      const size_t pixel = (size_t{sample} * p.height + y) * p.width + x;
      const T* from = p.columns + (count > 0 ? pixel * p.column_channels + column : size_t{0});
      copy_chunk<kAligned>(stage + Shape::column_at(int(at), int(threadIdx.x) % Shape::kColumnChunks), from,
                           count);
    }
  }
};

// Calls multiply(tile, stage) for the tiles of pixels that this block sums, with loads ahead of them.
template <class Shape, class T, class Load, class Multiply>
__device__ __forceinline__ void sum_tiles(const WeightGradArguments<T>& p, T* shared, const Load& load,
                                          const Multiply& multiply) {
  const uint32_t first = blockIdx.z * p.tiles_per_split;
  const uint32_t last = first + p.tiles_per_split < p.tiles ? first + p.tiles_per_split : p.tiles;
  run_stages<Shape::kStages>(
      first < last ? int(last - first) : 0,
      [&](int k, int stage) { load(first + k, shared + stage * Shape::kStage); },
      [&](int k, int stage) { multiply(first + k, shared + stage * Shape::kStage); });
}

// Writes sums of dw's row `row` at the columns of chunk `chunk`, `offset` channels into it.
template <int kCount, class T>
__device__ __forceinline__ void write_weight_grad(const WeightGradArguments<T>& p, int row, uint32_t chunk,
                                                  int offset, const float (&sum)[kCount]) {
  uint32_t tap = chunk;
  const int column = int(p.chunks_per_tap.split(tap)) * kVector<T> + offset;
  if (row >= p.row_channels || int(tap) >= p.taps || column >= p.column_channels) return;
  const size_t at = (size_t(row) * p.taps + tap) * p.column_channels + column;
  const bool whole = column + kCount <= p.column_channels && p.column_channels % kCount == 0;
  const auto write = [&](auto* to) {
    using Out = std::remove_pointer_t<decltype(to)>;
    if (whole) {
      write_vector(to + at, sum);
    } else {
      PYFACE_UNROLL
      for (int k = 0; k < kCount; k++) {
        if (column + k < p.column_channels) to[at + k] = narrow<Out>(sum[k]);
      }
    }
  };
  if (p.partial) {
    write(p.partial + size_t{blockIdx.z} * p.row_channels * p.taps * p.column_channels);
  } else {
    write(p.dw);
  }
}

// ---- 16-bit types on tensor cores

// kScaled: the scales of the sample that a tile belongs to multiply the fragments.
template <class T, class Shape, int kWarpRows, int kWarpColumns, bool kAligned, bool kScaled>
__global__ void __launch_bounds__(Shape::kThreads) conv2d_weight_grad_kernel(const WeightGradArguments<T> p) {
  constexpr int kWarps = Shape::kThreads / 32, kDown = Shape::kRows / kWarpRows;
  constexpr int kM = kWarpRows / 16, kN = kWarpColumns / 8;
  static_assert(kDown * (Shape::kColumns / kWarpColumns) == kWarps && kN % 2 == 0, "warps fill the tile");
  PYFACE_SHARED(memory);
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5;
  const int warp_row = warp % kDown * kWarpRows, warp_column = warp / kDown * kWarpColumns;
  const int first_row = int(blockIdx.y) * Shape::kRows;
  const uint32_t first_chunk = blockIdx.x * Shape::kColumnChunks;
  const WeightGradLoader<T, Shape, kAligned> load(p, first_row, first_chunk);

  float sum[kM][kN][4] = {};
  uint32_t row_scale[kScaled ? kM : 1][2], column_scale[kScaled ? kN : 1], segment = ~0u;
  const auto pair_of = [](float scale) { return pack_pair<T>(scale, scale); };
  const auto read_scales = [&](uint32_t sample) {
    PYFACE_UNROLL
    for (int i = 0; i < kM; i++) {
      PYFACE_UNROLL
      for (int half = 0; half < 2; half++) {
        const int row = first_row + warp_row + i * 16 + half * 8 + (lane >> 2);
        const bool there = p.row_scale && row < p.row_channels;
        row_scale[i][half] = pair_of(there ? p.row_scale[size_t{sample} * p.row_channels + row] : 1.f);
      }
    }
    PYFACE_UNROLL
    for (int j = 0; j < kN; j++) {
      uint32_t tap = first_chunk + warp_column / 8 + j;
      const int column = int(p.chunks_per_tap.split(tap)) * 8 + (lane >> 2);
      const bool there = p.column_scale && column < p.column_channels;
      column_scale[j] = pair_of(there ? p.column_scale[size_t{sample} * p.column_channels + column] : 1.f);
    }
  };
  const auto compute = [&](uint32_t tile, const T* rows) {
    if constexpr (kScaled) {
      const uint32_t own = p.tiles_per_segment(tile);
      if (own != segment) read_scales(segment = own);
    }
    const T* columns = rows + Shape::kPixels * Shape::kRowStep;
    PYFACE_UNROLL
    for (int k = 0; k < Shape::kPixels; k += 16) {
      uint32_t a[kM][4], b[kN][2];
      PYFACE_UNROLL
      for (int i = 0; i < kM; i++) {
        load_a_across<Shape::kRows>(a[i], rows, warp_row + i * 16, k);
        if constexpr (kScaled) {
          PYFACE_UNROLL
          for (int r = 0; r < 4; r++) a[i][r] = multiply_pairs<T>(a[i][r], row_scale[i][r & 1]);
        }
      }
      PYFACE_UNROLL
      for (int j = 0; j < kN; j += 2) {
        uint32_t both[4];
        load_b_across<Shape::kColumns>(both, columns, warp_column + j * 8, k);
        PYFACE_UNROLL
        for (int r = 0; r < 4; r++) {
          b[j + (r >> 1)][r & 1] =
              kScaled ? multiply_pairs<T>(both[r], column_scale[kScaled ? j + (r >> 1) : 0]) : both[r];
        }
      }
      PYFACE_UNROLL
      for (int i = 0; i < kM; i++) {
        PYFACE_UNROLL
        for (int j = 0; j < kN; j++) mma_m16n8k16<kIsBfloat16<T>>(sum[i][j], a[i], b[j]);
      }
    }
  };
  sum_tiles<Shape>(p, reinterpret_cast<T*>(memory), load, compute);

  PYFACE_UNROLL
  for (int i = 0; i < kM; i++) {
    PYFACE_UNROLL
    for (int j = 0; j < kN; j++) {
      PYFACE_UNROLL
      for (int half = 0; half < 2; half++) {
        const float pair[2] = {sum[i][j][half * 2], sum[i][j][half * 2 + 1]};
        write_weight_grad(p, first_row + warp_row + i * 16 + half * 8 + (lane >> 2),
                          first_chunk + warp_column / 8 + j, (lane & 3) * 2, pair);
      }
    }
  }
}

// ---- float32 by fused multiply-add: 128 threads, 8 rows x 4 columns each

using WeightGradF32 = WeightGradShape<float, 64, 64, 16, 128, 3>;

template <bool kAligned, bool kScaled>
__global__ void __launch_bounds__(128) conv2d_weight_grad_f32_kernel(const WeightGradArguments<float> p) {
  using Shape = WeightGradF32;
  PYFACE_SHARED(memory);
  const int own_row = int(threadIdx.x) / 16 * 8, own_chunk = int(threadIdx.x) % 16;
  const int first_row = int(blockIdx.y) * Shape::kRows;
  const uint32_t first_chunk = blockIdx.x * Shape::kColumnChunks;
  const WeightGradLoader<float, Shape, kAligned> load(p, first_row, first_chunk);

  float sum[8][4] = {}, row_scale[8], column_scale[4];
  uint32_t segment = ~0u;
  const auto read_scales = [&](uint32_t sample) {
    PYFACE_UNROLL
    for (int i = 0; i < 8; i++) {
      const int row = first_row + own_row + i;
      const bool there = p.row_scale && row < p.row_channels;
      row_scale[i] = there ? p.row_scale[size_t{sample} * p.row_channels + row] : 1.f;
    }
    uint32_t tap = first_chunk + own_chunk;
    const int column = int(p.chunks_per_tap.split(tap)) * 4;
    PYFACE_UNROLL
    for (int j = 0; j < 4; j++) {
      const bool there = p.column_scale && column + j < p.column_channels;
      column_scale[j] = there ? p.column_scale[size_t{sample} * p.column_channels + column + j] : 1.f;
    }
  };
  const auto compute = [&](uint32_t tile, const float* rows) {
    if constexpr (kScaled) {
      const uint32_t own = p.tiles_per_segment(tile);
      if (own != segment) read_scales(segment = own);
    }
    const float* columns = rows + Shape::kPixels * Shape::kRowStep;
    PYFACE_UNROLL
    for (int k = 0; k < Shape::kPixels; k++) {
      float a[8], b[4];
      read_vector(rows + k * Shape::kRowStep + own_row, a);
      read_vector(columns + k * Shape::kColumnStep + own_chunk * 4, b);
      if constexpr (kScaled) {
        PYFACE_UNROLL
        for (int i = 0; i < 8; i++) a[i] *= row_scale[i];
        PYFACE_UNROLL
        for (int j = 0; j < 4; j++) b[j] *= column_scale[j];
      }
      PYFACE_UNROLL
      for (int i = 0; i < 8; i++) {
        PYFACE_UNROLL
        for (int j = 0; j < 4; j++) sum[i][j] += a[i] * b[j];
      }
    }
  };
  sum_tiles<Shape>(p, reinterpret_cast<float*>(memory), load, compute);

  PYFACE_UNROLL
  for (int i = 0; i < 8; i++)
    write_weight_grad(p, first_row + own_row + i, first_chunk + own_chunk, 0, sum[i]);
}

// ---- launch

template <class T>
WeightGradArguments<T> weight_grad_arguments(const Conv2dWeightGradParams& p) {
  const WeightGradTile tile = weight_grad_tile(p);
  WeightGradArguments<T> a{};
  a.rows = static_cast<const T*>(p.transposed ? p.x : p.dy);
  a.columns = static_cast<const T*>(p.transposed ? p.dy : p.x);
  a.row_scale = p.transposed ? p.style : p.demod;
  a.column_scale = p.transposed ? p.demod : p.style;
  a.dw = p.splits > 1 ? nullptr : static_cast<T*>(p.dw);
  a.partial = p.splits > 1 ? p.workspace : nullptr;
  const bool scaled = a.row_scale || a.column_scale;
  const int64_t segments = scaled ? p.n : 1;
  a.segment_pixels = uint32_t(p.n * p.places() / segments);
  a.tiles_per_segment = FastDiv(uint32_t(ceil_div(a.segment_pixels, tile.pixels)));
  a.tiles = uint32_t(segments) * a.tiles_per_segment.divisor;
  a.tiles_per_split = uint32_t(ceil_div(a.tiles, p.splits));
  a.row_width = FastDiv(uint32_t(p.transposed ? p.in_w : p.out_w));
  a.row_places = FastDiv(uint32_t(p.transposed ? p.in_h : p.out_h));
  a.chunks_per_tap = FastDiv(uint32_t(ceil_div(p.column_channels(), tile.vector)));
  a.kernel_width = FastDiv(uint32_t(p.kernel_w));
  a.row_channels = int(p.row_channels());
  a.column_channels = int(p.column_channels());
  a.taps = int(p.taps());
  a.height = int(p.transposed ? p.out_h : p.in_h);
  a.width = int(p.transposed ? p.out_w : p.in_w);
  a.stride = p.stride;
  a.pad_y = p.pad_y;
  a.pad_x = p.pad_x;
  return a;
}

template <class T, class Launcher>
void run_typed_weight_grad(const Conv2dWeightGradParams& p, const Launcher& launch) {
  const WeightGradTile tile = weight_grad_tile(p);
  const WeightGradArguments<T> a = weight_grad_arguments<T>(p);
  const bool scaled = a.row_scale || a.column_scale;
  const bool aligned = a.row_channels % tile.vector == 0 && a.column_channels % tile.vector == 0 &&
                       aligned16(a.rows) && aligned16(a.columns);
  const dim3 grid(unsigned(ceil_div(weight_grad_columns(p), tile.columns)),
                  unsigned(ceil_div(a.row_channels, tile.rows)), unsigned(p.splits));
  const auto go = [&](auto kernel, auto shape, const char* name) {
    using Shape = decltype(shape);
    launch(name, kernel, grid, dim3(Shape::kThreads), Shape::kSharedBytes, a);
  };
  if constexpr (std::is_same_v<T, float>) {
    const WeightGradF32 shape{};
    const auto kernel = aligned ? (scaled ? conv2d_weight_grad_f32_kernel<true, true>
                                          : conv2d_weight_grad_f32_kernel<true, false>)
                                : (scaled ? conv2d_weight_grad_f32_kernel<false, true>
                                          : conv2d_weight_grad_f32_kernel<false, false>);
    go(kernel, shape, "conv2d_weight_grad_f32_kernel");
  } else {
    using Small = WeightGradShape<T, 64, 64, 32, 128, 3>;
    using Tall = WeightGradShape<T, 128, 64, 32, 128, 3>;
    using Large = WeightGradShape<T, 128, 128, 32, 256, 4>;
    if (tile.rows == 128 && aligned) {
      if (tile.columns == 128) {
        go(scaled ? conv2d_weight_grad_kernel<T, Large, 64, 32, true, true>
                  : conv2d_weight_grad_kernel<T, Large, 64, 32, true, false>,
           Large{}, "conv2d_weight_grad_kernel (128x128)");
      } else {
        go(scaled ? conv2d_weight_grad_kernel<T, Tall, 64, 32, true, true>
                  : conv2d_weight_grad_kernel<T, Tall, 64, 32, true, false>,
           Tall{}, "conv2d_weight_grad_kernel (128x64)");
      }
    } else if (aligned) {
      go(scaled ? conv2d_weight_grad_kernel<T, Small, 32, 32, true, true>
                : conv2d_weight_grad_kernel<T, Small, 32, 32, true, false>,
         Small{}, "conv2d_weight_grad_kernel (64x64)");
    } else {
      PYFACE_CHECK(tile.rows == 64, "conv2d_weight_grad", "x or dy", "an address that is no multiple of 16",
                   "16-byte aligned tensors where channels are multiples of 8");
      go(scaled ? conv2d_weight_grad_kernel<T, Small, 32, 32, false, true>
                : conv2d_weight_grad_kernel<T, Small, 32, 32, false, false>,
         Small{}, "conv2d_weight_grad_kernel (64x64, single elements)");
    }
  }
  if (p.splits > 1) {
    run_sum_rows(p.workspace, static_cast<T*>(p.dw), 1, p.splits,
                 p.row_channels() * p.taps() * p.column_channels(), launch);
  }
}

template <class Launcher>
void run_conv2d_weight_grad(const Conv2dWeightGradParams& p, const Launcher& launch) {
  const char* op = "conv2d_weight_grad";
  const int64_t count = p.row_channels() * p.taps() * p.column_channels();
  if (count == 0) return;
  PYFACE_CHECK(count < launch.index_limit(), op, "dw", std::to_string(count) + " elements",
               "fewer than " + std::to_string(launch.index_limit()));
  PYFACE_CHECK(p.n * p.places() > 0, op, "x", "a tensor without pixels", "at least one pixel");
  PYFACE_CHECK(aligned16(p.dw) && aligned16(p.workspace), op, "dw or workspace",
               "an address that is no multiple of 16", "16-byte aligned tensors");
  check_int_range(op, "row channels", ceil_div(p.row_channels(), 64), 1, 65535);
  if (p.dtype == DType::kF32) return run_typed_weight_grad<float>(p, launch);
  PYFACE_CHECK(launch.capability() >= 80, op, "the device's compute capability",
               std::to_string(launch.capability() / 10) + "." + std::to_string(launch.capability() % 10),
               "8.0 and up for 16-bit tensors; pass float32, or backend='reference'");
  if (p.dtype == DType::kBF16) return run_typed_weight_grad<__nv_bfloat16>(p, launch);
  run_typed_weight_grad<__half>(p, launch);
}

}  // namespace pyface::dev
