// upfirdn2d: one kernel for every case, and two quick ones for up/down 1/1, 2/1, 1/2 with filters up to 8x8:
// tiles in shared memory for NCHW, register windows over channel vectors for NHWC.
#pragma once
#include "kernels/device.cuh"
#include "pyface/upfirdn2d.h"

namespace pyface::dev {

struct UpfirdnShape {
  int in_h, in_w, out_h, out_w, pad_x, pad_y;
  int filter_h, filter_w, up_x, up_y, down_x, down_y;
  bool separable, flip, channels_last;
};

// Tap (ky, kx) of the filter as a correlation: out[o] = sum_k tap[k] * zero_inserted[o * down + k - pad].
template <class A>
__device__ __forceinline__ A filter_tap(const A* filter, const UpfirdnShape& s, int ky, int kx) {
  const int y = s.flip ? ky : s.filter_h - 1 - ky, x = s.flip ? kx : s.filter_w - 1 - kx;
  return s.separable ? filter[y] * filter[x] : filter[y * s.filter_w + x];
}

// The inputs that reach one output along one axis: first..last, and the tap that meets the first.
struct Reach {
  int first, last, tap;
  __device__ __forceinline__ Reach(int out, int in_size, int up, int down, int pad, int taps) {
    const int start = out * down - pad, end = start + taps - 1;
    // Divisions round towards zero: right for what is not negative, and what is negative is clipped.
    first = start > 0 ? (start + up - 1) / up : 0;
    last = end < 0 ? -1 : end / up;
    if (last > in_size - 1) last = in_size - 1;
    tap = first * up - start;
  }
};

// One output a thread, any parameters, both memory orders.
template <class T>
__global__ void __launch_bounds__(256)
    upfirdn2d_generic_kernel(const T* __restrict__ x, const Accumulator<T>* __restrict__ filter,
                             T* __restrict__ y, UpfirdnShape s, FastDiv fast, FastDiv middle, FastDiv slow,
                             uint32_t outputs, int channels, Accumulator<T> gain) {
  using A = Accumulator<T>;
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < outputs; i += step) {
    // NCHW: fast, middle, slow = column, row, plane. NHWC: channel, column, row, and the rest is the sample.
    uint32_t rest = i;
    const int a = int(fast.split(rest)), b = int(middle.split(rest));
    const int c = s.channels_last ? int(slow.split(rest)) : 0;
    const int column = s.channels_last ? b : a, row = s.channels_last ? c : b;
    const int pixel = s.channels_last ? channels : 1;
    const T* from = x + size_t(rest) * s.in_h * s.in_w * pixel + (s.channels_last ? a : 0);
    const Reach rows(row, s.in_h, s.up_y, s.down_y, s.pad_y, s.filter_h);
    const Reach columns(column, s.in_w, s.up_x, s.down_x, s.pad_x, s.filter_w);
    A sum = 0;
    for (int iy = rows.first, ky = rows.tap; iy <= rows.last; iy++, ky += s.up_y) {
      const T* line = from + size_t(iy) * s.in_w * pixel;
      for (int ix = columns.first, kx = columns.tap; ix <= columns.last; ix++, kx += s.up_x) {
        sum += filter_tap(filter, s, ky, kx) * widen(line[size_t(ix) * pixel]);
      }
    }
    y[i] = narrow<T>(sum * gain);
  }
}

// A thread of the quick kernels makes kOutX x kOutY outputs from a window of kColumns x kRows inputs. Output
// (0, 0) lies on input (0, 0) of the window: the tile starts where out * down - pad is a multiple of up.
template <int kUp, int kDown, int kTaps, int kAcross>
struct Window {
  static_assert(kUp == 1 || (kUp == 2 && kDown == 1 && kTaps % 2 == 0 && kAcross % 2 == 0), "no such window");
  static constexpr int kOutX = kAcross, kOutY = 4;
  static constexpr int kColumns = kUp == 1 ? (kOutX - 1) * kDown + kTaps : (kOutX + kTaps) / 2;
  static constexpr int kRows = kUp == 1 ? (kOutY - 1) * kDown + kTaps : (kOutY + kTaps) / 2;
  // Inputs from one window to the next.
  static constexpr int kStepX = kUp == 1 ? kOutX * kDown : kOutX / kUp;
  static constexpr int kStepY = kUp == 1 ? kOutY * kDown : kOutY / kUp;

  // sum[a][b][:] += taps(ky, kx) * input for the window row `r`; load(r, c, v) reads an input.
  template <int kN, class Load, class Taps>
  static __device__ __forceinline__ void add_row(int r, float (&sum)[kOutY][kOutX][kN], const Load& load,
                                                 const Taps& taps) {
    float v[kColumns][kN];
    PYFACE_UNROLL
    for (int c = 0; c < kColumns; c++) load(r, c, v[c]);
    PYFACE_UNROLL
    for (int a = 0; a < kOutY; a++) {
      const int ky = r * kUp - a * kDown;
      if (ky < 0 || ky >= kTaps) continue;
      PYFACE_UNROLL
      for (int b = 0; b < kOutX; b++) {
        PYFACE_UNROLL
        for (int c = 0; c < kColumns; c++) {
          const int kx = c * kUp - b * kDown;
          if (kx < 0 || kx >= kTaps) continue;
          const float tap = taps(ky, kx);
          // Absent taps are 0 and must not touch the sum: 0 * infinity would be NaN.
          if (Taps::kPadded && tap == 0.f) continue;
          PYFACE_UNROLL
          for (int k = 0; k < kN; k++) sum[a][b][k] += tap * v[c][k];
        }
      }
    }
  }
  template <int kN, class Load, class Taps>
  static __device__ __forceinline__ void add(float (&sum)[kOutY][kOutX][kN], const Load& load,
                                             const Taps& taps) {
    if constexpr (Taps::kPadded) {
      PYFACE_NO_UNROLL
      for (int r = 0; r < kRows; r++) add_row(r, sum, load, taps);
    } else {
      PYFACE_UNROLL
      for (int r = 0; r < kRows; r++) add_row(r, sum, load, taps);
    }
  }
};

// A filter of exactly kTaps x kTaps, in registers.
template <int kTaps>
struct RegisterTaps {
  static constexpr bool kPadded = false;
  float tap[kTaps * kTaps];
  __device__ __forceinline__ explicit RegisterTaps(const float* shared) {
    PYFACE_UNROLL
    for (int i = 0; i < kTaps * kTaps; i++) tap[i] = shared[i];
  }
  __device__ __forceinline__ float operator()(int ky, int kx) const { return tap[ky * kTaps + kx]; }
};
// A filter of up to kTaps x kTaps, in shared memory, padded with zeros.
template <int kTaps>
struct SharedTaps {
  static constexpr bool kPadded = true;
  const float* tap;
  __device__ __forceinline__ explicit SharedTaps(const float* shared) : tap(shared) {}
  __device__ __forceinline__ float operator()(int ky, int kx) const { return tap[ky * kTaps + kx]; }
};
template <int kTaps>
using Taps = std::conditional_t<kTaps == 4, RegisterTaps<kTaps>, SharedTaps<kTaps>>;

// Copies the filter as a correlation times the gain, zero-padded to kTaps x kTaps.
template <int kTaps>
__device__ __forceinline__ void stage_filter(const float* filter, const UpfirdnShape& s, float gain,
                                             float* shared) {
  for (int i = threadIdx.x; i < kTaps * kTaps; i += blockDim.x) {
    const int ky = i / kTaps, kx = i % kTaps;
    shared[i] = ky < s.filter_h && kx < s.filter_w ? filter_tap(filter, s, ky, kx) * gain : 0.f;
  }
}

// The output where tile `i` of `size` starts, and the input there.
template <int kUp, int kDown>
struct Origin {
  int out, in;
  __device__ __forceinline__ Origin(int i, int size, int pad) {
    out = i * size - (kUp == 2 ? pad & 1 : 0);
    in = (out * kDown - pad) / kUp;  // exact
  }
};
template <int kUp>
int tiles_along(int out_size, int pad, int tile) {
  return int(ceil_div(int64_t{out_size} + (kUp == 2 ? pad & 1 : 0), tile));
}

// NCHW: a block makes a tile of one plane after the other from the input tile in shared memory. Lanes are kUp
// outputs apart, so that they read neighbouring inputs and collide in few banks.
template <int kUp, int kDown, int kTaps>
struct PlaneTile {
  using W = Window<kUp, kDown, kTaps, kUp>;
  static constexpr int kWidth = 32 * W::kOutX, kHeight = 8 * W::kOutY;
  static constexpr int kInW = 31 * W::kStepX + W::kColumns, kInH = 7 * W::kStepY + W::kRows;
  static constexpr int kSharedBytes = (kTaps * kTaps + kInW * kInH) * int(sizeof(float));
};

template <class T, int kUp, int kDown, int kTaps>
__global__ void __launch_bounds__(256, 4)
    upfirdn2d_planes_kernel(const T* __restrict__ x, const float* __restrict__ filter, T* __restrict__ y,
                            UpfirdnShape s, FastDiv tiles_x, int planes, float gain, bool paired) {
  using Tile = PlaneTile<kUp, kDown, kTaps>;
  using W = typename Tile::W;
  PYFACE_SHARED(memory);
  float* taps_shared = reinterpret_cast<float*>(memory);
  float* tile = taps_shared + kTaps * kTaps;
  uint32_t tile_y = blockIdx.x;
  const uint32_t tile_x = tiles_x.split(tile_y);
  const Origin<kUp, kDown> column(int(tile_x), Tile::kWidth, s.pad_x),
      row(int(tile_y), Tile::kHeight, s.pad_y);
  const int lane = threadIdx.x & 31, group = threadIdx.x >> 5;
  const float* window = tile + group * W::kStepY * Tile::kInW + lane * W::kStepX;
  stage_filter<kTaps>(filter, s, gain, taps_shared);
  __syncthreads();
  const Taps<kTaps> taps(taps_shared);
  for (int plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const T* from = x + size_t(plane) * s.in_h * s.in_w;
    T* to = y + size_t(plane) * s.out_h * s.out_w;
    for (int i = threadIdx.x; i < Tile::kInW * Tile::kInH; i += 256) {
      const int iy = row.in + i / Tile::kInW, ix = column.in + i % Tile::kInW;
      const bool inside = iy >= 0 && iy < s.in_h && ix >= 0 && ix < s.in_w;
      tile[i] = inside ? widen(from[size_t(iy) * s.in_w + ix]) : 0.f;
    }
    __syncthreads();
    float sum[W::kOutY][W::kOutX][1] = {};
    W::add(sum, [&](int r, int c, float (&v)[1]) { v[0] = window[r * Tile::kInW + c]; }, taps);
    const int ox = column.out + lane * W::kOutX, oy = row.out + group * W::kOutY;
    PYFACE_UNROLL
    for (int a = 0; a < W::kOutY; a++) {
      if (oy + a < 0 || oy + a >= s.out_h) continue;
      T* line = to + size_t(oy + a) * s.out_w;
      if constexpr (W::kOutX == 2) {
        if (paired) {
          const float both[2] = {sum[a][0][0], sum[a][1][0]};
          if (ox < s.out_w) write_vector(line + ox, both);
          continue;
        }
      }
      PYFACE_UNROLL
      for (int b = 0; b < W::kOutX; b++) {
        if (ox + b >= 0 && ox + b < s.out_w) line[ox + b] = narrow<T>(sum[a][b][0]);
      }
    }
    __syncthreads();
  }
}

// NHWC: a thread makes 2x4 outputs of four neighbouring channels; neighbours share their reads through the
// cache.
// With 8 taps ptxas would spill to hold more blocks than two; with 4 taps its own choice (0) is good.
template <class T, int kUp, int kDown, int kTaps>
__global__ void __launch_bounds__(256, kTaps == 4 ? 0 : 2)
    upfirdn2d_pixels_kernel(const T* __restrict__ x, const float* __restrict__ filter, T* __restrict__ y,
                            UpfirdnShape s, FastDiv channel_vectors, FastDiv tiles_x, FastDiv tiles_y,
                            uint32_t tiles, int channels, float gain) {
  using W = Window<kUp, kDown, kTaps, 2>;
  constexpr int kN = 4;
  PYFACE_SHARED(memory);
  float* taps_shared = reinterpret_cast<float*>(memory);
  stage_filter<kTaps>(filter, s, gain, taps_shared);
  __syncthreads();
  const Taps<kTaps> taps(taps_shared);
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < tiles; i += step) {
    uint32_t sample = i;
    const int channel = int(channel_vectors.split(sample)) * kN;
    const Origin<kUp, kDown> column(int(tiles_x.split(sample)), W::kOutX, s.pad_x);
    const Origin<kUp, kDown> row(int(tiles_y.split(sample)), W::kOutY, s.pad_y);
    const T* from = x + size_t(sample) * s.in_h * s.in_w * channels + channel;
    T* to = y + size_t(sample) * s.out_h * s.out_w * channels + channel;
    float sum[W::kOutY][W::kOutX][kN] = {};
    const auto load = [&](int r, int c, float (&v)[kN]) {
      const int iy = row.in + r, ix = column.in + c;
      if (iy >= 0 && iy < s.in_h && ix >= 0 && ix < s.in_w) {
        read_vector(from + (size_t(iy) * s.in_w + ix) * channels, v);
      } else {
        PYFACE_UNROLL
        for (int k = 0; k < kN; k++) v[k] = 0.f;
      }
    };
    W::add(sum, load, taps);
    PYFACE_UNROLL
    for (int a = 0; a < W::kOutY; a++) {
      PYFACE_UNROLL
      for (int b = 0; b < W::kOutX; b++) {
        const int oy = row.out + a, ox = column.out + b;
        if (oy >= 0 && oy < s.out_h && ox >= 0 && ox < s.out_w) {
          write_vector(to + (size_t(oy) * s.out_w + ox) * channels, sum[a][b]);
        }
      }
    }
  }
}

// ---- host: which kernel, which grid

inline UpfirdnShape checked_shape(const Upfirdn2dParams& p) {
  const char* op = "upfirdn2d";
  const auto check = [&](const char* name, int64_t value, int64_t low, int64_t high) {
    check_int_range(op, name, value, low, high);
  };
  constexpr int64_t kMost = 1 << 28;
  check("in_h", p.in_h, 0, kMost), check("in_w", p.in_w, 0, kMost);
  check("out_h", p.out_h, 0, kMost), check("out_w", p.out_w, 0, kMost);
  check("filter_h", p.filter_h, 1, 1 << 14), check("filter_w", p.filter_w, 1, 1 << 14);
  check("up_x", p.up_x, 1, 1 << 14), check("up_y", p.up_y, 1, 1 << 14);
  check("down_x", p.down_x, 1, 1 << 14), check("down_y", p.down_y, 1, 1 << 14);
  check("pad_x0", p.pad_x0, -kMost, kMost), check("pad_y0", p.pad_y0, -kMost, kMost);
  check("out_w * down_x", p.out_w * p.down_x, 0, kMost * 4),
      check("out_h * down_y", p.out_h * p.down_y, 0, kMost * 4);
  check("in_w * up_x", p.in_w * p.up_x, 0, kMost * 4), check("in_h * up_y", p.in_h * p.up_y, 0, kMost * 4);
  check("out_h * out_w", p.out_h * p.out_w * (p.channels_last ? p.c : 1), 0, kIndexLimit - 1);
  if (p.separable) check("filter_h of a separable filter", p.filter_h, p.filter_w, p.filter_w);
  return {int(p.in_h), int(p.in_w), int(p.out_h), int(p.out_w), p.pad_x0,
          p.pad_y0,    p.filter_h,  p.filter_w,   p.up_x,       p.up_y,
          p.down_x,    p.down_y,    p.separable,  p.flip,       p.channels_last};
}

template <class T, class Launcher>
void run_upfirdn2d_generic(const T* x, const Accumulator<T>* filter, T* y, const UpfirdnShape& s,
                           int64_t samples, int64_t channels, Accumulator<T> gain, const Launcher& launch) {
  const int64_t outputs = samples * channels * s.out_h * s.out_w;
  const int64_t blocks = std::min<int64_t>(ceil_div(outputs, 256), int64_t{launch.multiprocessors()} * 32);
  const FastDiv width(uint32_t(s.out_w)), height(uint32_t(s.out_h)), depth { uint32_t(channels) };
  launch("upfirdn2d_generic_kernel", upfirdn2d_generic_kernel<T>, dim3(unsigned(blocks)), dim3(256), 0, x,
         filter, y, s, s.channels_last ? depth : width, s.channels_last ? width : height, height,
         uint32_t(outputs), int(channels), gain);
}

template <int kUp, int kDown, int kTaps, class T, class Launcher>
void run_upfirdn2d_quick(const T* x, const float* filter, T* y, const UpfirdnShape& s, int64_t samples,
                         int64_t channels, float gain, const Launcher& launch) {
  if (s.channels_last) {
    using W = Window<kUp, kDown, kTaps, 2>;
    const int tiles_x = tiles_along<kUp>(s.out_w, s.pad_x, W::kOutX);
    const int tiles_y = tiles_along<kUp>(s.out_h, s.pad_y, W::kOutY);
    const int64_t tiles = samples * tiles_y * tiles_x * (channels / 4);
    const int64_t blocks = std::min<int64_t>(ceil_div(tiles, 256), int64_t{launch.multiprocessors()} * 32);
    launch("upfirdn2d_pixels_kernel", upfirdn2d_pixels_kernel<T, kUp, kDown, kTaps>, dim3(unsigned(blocks)),
           dim3(256), kTaps * kTaps * sizeof(float), x, filter, y, s, FastDiv(uint32_t(channels / 4)),
           FastDiv(uint32_t(tiles_x)), FastDiv(uint32_t(tiles_y)), uint32_t(tiles), int(channels), gain);
  } else {
    using Tile = PlaneTile<kUp, kDown, kTaps>;
    const int tiles_x = tiles_along<kUp>(s.out_w, s.pad_x, Tile::kWidth);
    const int tiles_y = tiles_along<kUp>(s.out_h, s.pad_y, Tile::kHeight);
    const int64_t planes = samples * channels;
    const bool paired =
        s.out_w % 2 == 0 && s.pad_x % 2 == 0 && reinterpret_cast<uintptr_t>(y) % (2 * sizeof(T)) == 0;
    // Enough blocks to fill the device several times; a block takes further planes to reuse its filter.
    const int64_t tiles = int64_t{tiles_x} * tiles_y;
    const int64_t wanted = std::max<int64_t>(1, int64_t{launch.multiprocessors()} * 32 / tiles);
    const dim3 grid(unsigned(tiles), unsigned(std::min<int64_t>({planes, wanted, 65535})));
    launch("upfirdn2d_planes_kernel", upfirdn2d_planes_kernel<T, kUp, kDown, kTaps>, grid, dim3(256),
           Tile::kSharedBytes, x, filter, y, s, FastDiv(uint32_t(tiles_x)), int(planes), gain, paired);
  }
}

// Whether the quick kernels take this case; small outputs leave most of a tile idle.
template <class T>
bool upfirdn2d_is_quick(const UpfirdnShape& s, const void* x, const void* y, int64_t channels) {
  const bool rates = s.up_x == s.up_y && s.down_x == s.down_y &&
                     ((s.up_x == 1 && s.down_x <= 2) || (s.up_x == 2 && s.down_x == 1));
  if (!rates || s.filter_h > 8 || s.filter_w > 8) return false;
  if (!s.channels_last) return s.out_w >= 24 && s.out_h >= 16;
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % (4 * sizeof(T)) == 0; };
  return channels % 4 == 0 && aligned(x) && aligned(y);
}

template <class T, class Launcher>
void run_upfirdn2d_slice(const T* x, const Accumulator<T>* filter, T* y, const UpfirdnShape& s,
                         int64_t samples, int64_t channels, Accumulator<T> gain, const Launcher& launch) {
  if constexpr (sizeof(T) <= 4) {
    if (upfirdn2d_is_quick<T>(s, x, y, channels)) {
      const auto go = [&](auto exact) {
        constexpr int kTaps = decltype(exact)::value ? 4 : 8;
        if (s.up_x == 2)
          return run_upfirdn2d_quick<2, 1, kTaps>(x, filter, y, s, samples, channels, gain, launch);
        if (s.down_x == 2)
          return run_upfirdn2d_quick<1, 2, kTaps>(x, filter, y, s, samples, channels, gain, launch);
        return run_upfirdn2d_quick<1, 1, kTaps>(x, filter, y, s, samples, channels, gain, launch);
      };
      if (s.filter_h == 4 && s.filter_w == 4) return go(std::true_type{});
      return go(std::false_type{});
    }
  }
  run_upfirdn2d_generic(x, filter, y, s, samples, channels, gain, launch);
}

// Tensors of 2^31 outputs or more go in slices: of samples when channels_last, else of planes.
template <class Launcher>
void run_upfirdn2d(const Upfirdn2dParams& p, const Launcher& launch) {
  const UpfirdnShape s = checked_shape(p);
  const int64_t slices = p.channels_last ? p.n : p.n * p.c, channels = p.channels_last ? p.c : 1;
  const int64_t outputs = p.out_h * p.out_w * channels, inputs = p.in_h * p.in_w * channels;
  if (slices * outputs == 0) return;
  const int64_t at_once = std::max<int64_t>(1, (launch.index_limit() - 1) / outputs);
  with_type(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = Accumulator<T>;
    for (int64_t first = 0; first < slices; first += at_once) {
      run_upfirdn2d_slice<T>(static_cast<const T*>(p.x) + first * inputs, static_cast<const A*>(p.filter),
                             static_cast<T*>(p.y) + first * outputs, s, std::min(at_once, slices - first),
                             channels, A(p.gain), launch);
    }
  });
}

}  // namespace pyface::dev
