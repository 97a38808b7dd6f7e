// An up-sampling synthesis layer on tensor cores, in one kernel, and the choice of how it is launched.
//
// A block's step (upconv2d_steps.cuh) is one matrix product for all four phases:
//   rows      positions; fragments of x are read at the four shifts that the taps need, and styled once each
//   columns   output channels of a phase
//   depth     16 input channels a turn, all nine taps of them: 9 products for 4 fragments of x
// Patches of x and taps of the weight travel by cp.async through three stages; the sums of the four phases
// lie in registers. Multiplied by demod and rounded they become u in shared memory, where the stages were.
#pragma once
#include "kernels/mma_tiles.cuh"
#include "kernels/upconv2d_simt.cuh"
#include "kernels/upconv2d_steps.cuh"

namespace pyface::dev {

// Rows of 16 elements, two chunks, exchanged so that any 8 rows one after the other lie in different banks.
struct NarrowSwizzle {
  static __device__ __forceinline__ int at(int row, int chunk) {
    return row * 16 + ((chunk ^ (row >> 2 & 1)) << 3);
  }
};

// A step's positions go to three warps, by 16 in turn so that a last step of few rows keeps all three busy,
// up to kFragments times 16 each; its channels by 16 to the other warps.
template <int kWidth_, int kRows_, int kChannels_, int kBlocks_>
struct UpconvTile : UpconvStep<kWidth_, kRows_, kChannels_> {
  using Step = UpconvStep<kWidth_, kRows_, kChannels_>;
  static constexpr int kDepth = 16, kStages = 3, kBlocks = kBlocks_;
  static constexpr int kWarpsM = 3, kFragments = 3, kProductRows = kWarpsM * kFragments * 16;
  static constexpr int kThreads = kWarpsM * (Step::kChannels / 16) * 32;
  static constexpr int kPatch = kProductRows + Step::kWidth + 1;  // pixels of x
  static constexpr int kTaps = 9 * Step::kChannels;               // rows of the weight
  static constexpr int kStage = (kPatch + kTaps) * kDepth;        // elements
  // Shared memory in elements: carried rows of u; its other rows, or the stages; the style.
  static constexpr int kStyle = std::max(Step::kMap, Step::kCarried + kStages * kStage);
  static_assert(Step::kPositions <= kProductRows && Step::kPositions > kProductRows - 16, "warps are busy");
  static_assert(kThreads == 6 * Step::kChannels, "threads copy the weight's taps by threes");
  static_assert(Step::kCarried + (kStages - 1) * kStage <= Step::kOutRows * Step::kMapRow,
                "the stages that are filled before a barrier leave the rows to carry alone");

  static int64_t shared_bytes(int64_t in_channels) { return (kStyle + ceil_div(in_channels, 16) * 16) * 2; }
};

// This thread's part of the copies to a stage, one 16-byte chunk of 8 channels each.
template <class T, class Tile>
class UpconvLoader {
 public:
  __device__ __forceinline__ UpconvLoader(const UpconvArguments<T>& a,
                                          const UpconvBlock<typename Tile::Step>& block)
      : x_(a.x + size_t(block.sample) * a.shape.h * a.shape.w * a.shape.in_channels),
        weights_(a.weight),
        channels_(a.shape.in_channels) {
    const int row = int(threadIdx.x >> 1), o = block.channel + row % Tile::kChannels;
    to_ = NarrowSwizzle::at(row, threadIdx.x & 1);
    weight_ = o < a.shape.out_channels ? (o * 9 + row / Tile::kChannels) * channels_ : -1;
  }

  __device__ __forceinline__ void begin(const UpconvShape& s, const UpconvBlock<typename Tile::Step>& block,
                                        int row) {
    PYFACE_UNROLL
    for (int k = 0; k < kPixels; k++)
      source_[k] = block.patch_source(s, int(threadIdx.x >> 1) + k * kRows, row);
  }
  // Channels 16 turn to 16 turn + 15 of the patch and of all taps.
  __device__ __forceinline__ void load(T* stage, int turn) const {
    const int channel = turn * Tile::kDepth + int(threadIdx.x & 1) * 8;
    const bool inside = channel < channels_;
    stage += to_;
    PYFACE_UNROLL
    for (int k = 0; k < kPixels; k++) {
      if (int(threadIdx.x >> 1) + k * kRows >= Tile::kPatch) break;
      const bool ok = inside && source_[k] >= 0;
      async_copy16(stage + k * kRows * Tile::kDepth, x_ + (ok ? source_[k] + channel : 0), ok ? 16 : 0);
    }
    const bool ok = inside && weight_ >= 0;
    const T* from = weights_ + (ok ? weight_ + channel : 0);
    PYFACE_UNROLL
    for (int k = 0; k < 3; k++) {
      async_copy16(stage + (Tile::kPatch + k * kRows) * Tile::kDepth, from, ok ? 16 : 0);
      if (ok) from += 3 * channels_;
    }
  }

 private:
  static constexpr int kRows = Tile::kThreads / 2, kPixels = (Tile::kPatch + kRows - 1) / kRows;
  static_assert(kRows % 8 == 0, "rows that a thread copies have one swizzle");
  const T* x_;
  const T* weights_;
  int channels_;
  int to_;      // elements from the begin of a stage
  int weight_;  // elements from the begin of all weights, or -1
  int source_[kPixels];
};

// Sums of a warp: of four phases, kFragments times 16 positions and 16 channels.
template <class Tile>
struct UpconvSums {
  float v[4][Tile::kFragments][2][4] = {};
};

// sums += all taps of 16 channels, for the first kActive fragments of the warp's positions. `style`: those of
// this thread's columns of A, 16 bits each.
template <int kActive, class T, class Tile>
__device__ __forceinline__ void multiply_taps(UpconvSums<Tile>& sums, const T* stage,
                                              const uint32_t (&style)[2]) {
  const int lane = threadIdx.x & 31, warp = int(threadIdx.x >> 5);
  const int row = warp % Tile::kWarpsM * 16 + (lane & 15) + 1 + Tile::kWidth;
  const T* taps = stage + Tile::kPatch * Tile::kDepth +
                  NarrowSwizzle::at(warp / Tile::kWarpsM * 16 + (lane >> 4 << 3) + (lane & 7), lane >> 3 & 1);
  PYFACE_UNROLL
  for (int shift = 0; shift < 4; shift++) {
    const int dy = shift >> 1, dx = shift & 1;
    const T* patch = stage + NarrowSwizzle::at(row - dy * Tile::kWidth - dx, lane >> 4);
    uint32_t a[kActive][4];
    PYFACE_UNROLL
    for (int i = 0; i < kActive; i++) {
      ldmatrix_x4(a[i], patch + i * Tile::kWarpsM * 16 * Tile::kDepth);
      PYFACE_UNROLL
      for (int r = 0; r < 4; r++) a[i][r] = multiply_pairs<T>(a[i][r], style[r >> 1]);
    }
    PYFACE_UNROLL
    for (int phase = 0; phase < 4; phase++) {
      const int ky = (phase >> 1) + 2 * dy, kx = (phase & 1) + 2 * dx;
      if (ky > 2 || kx > 2) continue;
      uint32_t b[4];
      ldmatrix_x4(b, taps + (ky * 3 + kx) * Tile::kChannels * Tile::kDepth);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      PYFACE_UNROLL
      for (int i = 0; i < kActive; i++) {
        mma_m16n8k16<kIsBfloat16<T>>(sums.v[phase][i][0], a[i], first);
        mma_m16n8k16<kIsBfloat16<T>>(sums.v[phase][i][1], a[i], second);
      }
    }
  }
}

// u = demod * sums, behind the carried rows.
template <class T, class Tile>
__device__ __forceinline__ void store_sums(const UpconvSums<Tile>& sums, T* u, const float (&demod)[2][2]) {
  const int thread = kept(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int chunk = warp / Tile::kWarpsM * 2;
  PYFACE_UNROLL
  for (int i = 0; i < Tile::kFragments; i++) {
    PYFACE_UNROLL
    for (int half = 0; half < 2; half++) {
      const int position = (i * Tile::kWarpsM + warp % Tile::kWarpsM) * 16 + half * 8 + (lane >> 2);
      if (position >= Tile::kPositions) continue;
      const int row = position / Tile::kWidth, column = position - row * Tile::kWidth;
      PYFACE_UNROLL
      for (int phase = 0; phase < 4; phase++) {
        const int pixel = Tile::pixel(Tile::kCarriedRows + 2 * row + (phase >> 1), phase & 1, column);
        PYFACE_UNROLL
        for (int j = 0; j < 2; j++) {
          const float* v = sums.v[phase][i][j] + half * 2;
          *reinterpret_cast<uint32_t*>(u + Swizzle<Tile::kChannels>::at(pixel, chunk + j) + (lane & 3) * 2) =
              pack_pair<T>(v[0] * demod[j][0], v[1] * demod[j][1]);
        }
      }
    }
  }
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) upconv2d_kernel(const UpconvArguments<T> a) {
  PYFACE_SHARED(memory);
  const UpconvShape& s = a.shape;
  const UpconvBlock<typename Tile::Step> block(s);
  T* u = reinterpret_cast<T*>(memory);
  T* stages = u + Tile::kCarried;
  T* style = u + Tile::kStyle;
  const int lane = threadIdx.x & 31, turns = (s.in_channels + Tile::kDepth - 1) / Tile::kDepth;
  const float* styles = a.style ? a.style + size_t(block.sample) * s.in_channels : nullptr;
  for (int i = threadIdx.x; i < turns * Tile::kDepth; i += Tile::kThreads)
    style[i] = narrow<T>(i >= s.in_channels ? 0.f : styles ? styles[i] : 1.f);
  const uint32_t* own_style = reinterpret_cast<const uint32_t*>(style) + (lane & 3);

  UpconvLoader<T, Tile> loader(a, block);
  walk_down<typename Tile::Step, Swizzle<Tile::kChannels>, Tile::kThreads, true>(u, block, a, [&](int row) {
    UpconvSums<Tile> sums;
    loader.begin(s, block, row);
    // Fragments of this warp that any output needs: fewer than all in the last step of a strip.
    const int fragments = (block.rows_needed(row) * Tile::kWidth + 15) / 16;
    const int active =
        (fragments + Tile::kWarpsM - 1 - int(threadIdx.x >> 5) % Tile::kWarpsM) / Tile::kWarpsM;
    run_stages<Tile::kStages>(
        turns, [&](int turn, int stage) { loader.load(stages + stage * Tile::kStage, turn); },
        [&](int turn, int stage) {
          const T* from = stages + stage * Tile::kStage;
          const uint32_t pair[2] = {own_style[turn * 8], own_style[turn * 8 + 4]};
          if (active == 3) {
            multiply_taps<3, T, Tile>(sums, from, pair);
          } else if (active == 2) {
            multiply_taps<2, T, Tile>(sums, from, pair);
          } else if (active == 1) {
            multiply_taps<1, T, Tile>(sums, from, pair);
          }
        });
    float demod[2][2];
    PYFACE_UNROLL
    for (int j = 0; j < 2; j++) {
      PYFACE_UNROLL
      for (int i = 0; i < 2; i++) {
        const int o = block.channel + int(threadIdx.x >> 5) / Tile::kWarpsM * 16 + j * 8 + (lane & 3) * 2 + i;
        const bool ok = a.epilogue.demod && o < s.out_channels;
        demod[j][i] = ok ? a.epilogue.demod[size_t(block.sample) * s.out_channels + o] : 1.f;
      }
    }
    store_sums<T, Tile>(sums, u, demod);
  });
}

// y = next_style * clamp(gain * act(y)) for activations made of transcendental functions, which would make
// the other kernels five times as long.
template <class T>
__global__ void __launch_bounds__(256)
    upconv2d_activation_kernel(T* __restrict__ y, const float* __restrict__ next_style,
                               Activation<float, true> activation, uint32_t count, int samples,
                               FastDiv channels) {
  for (int n = blockIdx.y; n < samples; n += gridDim.y) {
    T* sample = y + size_t(n) * count;
    for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < count; at += gridDim.x * blockDim.x) {
      uint32_t pixel = at;
      const uint32_t o = channels.split(pixel);
      float v[1] = {widen(sample[at])};
      activation.apply(v);
      if (next_style) v[0] *= next_style[size_t(n) * channels.divisor + o];
      sample[at] = narrow<T>(v[0]);
    }
  }
}

// ---- host: the choice of the launch

template <int kTile>
struct UpconvTileOf;
template <>
struct UpconvTileOf<0> : Type<UpconvTile<18, 8, 64, 1>> {};  // 32 x 16 pixels of y a step
template <>
struct UpconvTileOf<1> : Type<UpconvTile<18, 8, 32, 2>> {};  // the same with half of the channels
template <>
struct UpconvTileOf<2> : Type<UpconvTile<10, 14, 32, 2>> {};  // 16 x 28: narrow pictures

constexpr int64_t kUpconvSharedBudget = 99 * 1024;  // of a block on the smallest of sm_80 .. sm_120
static_assert((UpconvTileOf<0>::type::kStyle + kUpconvMaxChannels) * 2 <= kUpconvSharedBudget, "fits");
static_assert((UpconvTileOf<1>::type::kStyle + kUpconvMaxChannels) * 2 <= kUpconvSharedBudget, "fits");
static_assert((UpconvTileOf<2>::type::kStyle + kUpconvMaxChannels) * 2 <= kUpconvSharedBudget, "fits");

// Calls f(Type<UpconvTile<...>>{}) with tile number `tile`.
template <class F>
void with_upconv_tile(int tile, F&& f) {
  switch (tile) {
    case 0:
      return f(UpconvTileOf<0>{});
    case 1:
      return f(UpconvTileOf<1>{});
    default:
      return f(UpconvTileOf<2>{});
  }
}

// Cuts the layer into blocks of plan.steps steps.
inline void cut_upconv2d(const Upconv2dParams& p, Upconv2dPlan& plan) {
  plan.column_tiles = ceil_div(p.w, plan.width - 2);
  plan.channel_tiles = ceil_div(p.out_channels, plan.channels);
  plan.segments = std::max<int64_t>(1, ceil_div(p.h - 1, int64_t{plan.steps} * plan.rows - 2));
  plan.blocks = p.n * plan.segments * plan.column_tiles * plan.channel_tiles;
}

// The rule. Tile: the narrow one where the picture is at most 8 pixels wide; 32 channels where 64 would stay
// empty or leave multiprocessors without a block, and for up to 256 input channels, where the filter weighs a
// fifth of the products and more: two blocks on a multiprocessor hide one behind the other. Steps: those with
// the fewest waves times rows of positions, and of these the most, which compute the least twice.
template <class Launcher>
Upconv2dPlan plan_upconv2d(const Upconv2dParams& p, const Launcher& launch) {
  const char* op = "upconv2d";
  Upconv2dPlan plan{};
  const int64_t limit = launch.index_limit();
  const int64_t largest = std::max(p.h * p.w * p.in_channels, 4 * p.h * p.w * p.out_channels);
  PYFACE_CHECK(largest < limit, op, "x or y", std::to_string(largest) + " elements a sample",
               "fewer than " + std::to_string(limit));
  const int64_t weights = p.out_channels * 9 * p.in_channels;
  PYFACE_CHECK(weights < limit, op, "weight", std::to_string(weights) + " elements",
               "fewer than " + std::to_string(limit));
  plan.tensor_cores = p.dtype != DType::kF32 && p.in_channels % 8 == 0 && p.out_channels % 8 == 0 &&
                      aligned16(p.x) && aligned16(p.weight) && aligned16(p.y);
  int resident = 2;
  const auto take = [&](int tile) {
    with_upconv_tile(tile, [&](auto type) {
      using Tile = typename decltype(type)::type;
      plan.tile = tile, plan.width = Tile::kWidth, plan.rows = Tile::kRows, plan.channels = Tile::kChannels;
      plan.threads = Tile::kThreads, plan.shared_bytes = Tile::shared_bytes(p.in_channels);
      resident = Tile::kBlocks;
    });
  };
  const int64_t multiprocessors = launch.multiprocessors(), all_rows = p.h + 1;
  if (plan.tensor_cores) {
    PYFACE_CHECK(launch.capability() >= 80, op, "compute capability of the device",
                 std::to_string(launch.capability()),
                 "80 and up for float16 and bfloat16; float32 runs on this device");
    const bool few =
        p.n * ceil_div(p.w, 16) * ceil_div(p.out_channels, 64) * ceil_div(all_rows, 8) < multiprocessors;
    const int by_rule = p.w <= 8 ? 2 : p.out_channels <= 32 || p.in_channels <= 256 || few ? 1 : 0;
    take(p.tile >= 0 ? p.tile : by_rule);
  } else {
    plan.tile = -1, plan.width = UpconvSimtStep::kWidth, plan.rows = UpconvSimtStep::kRows;
    plan.channels = UpconvSimtStep::kChannels, plan.threads = kUpconvSimtThreads;
    plan.shared_bytes = kUpconvSimtSharedBytes;
  }
  plan.steps = p.steps;
  int64_t least = -1;
  for (int64_t steps = ceil_div(all_rows, plan.rows); p.steps == 0 && steps > 0; steps--) {
    Upconv2dPlan other = plan;
    other.steps = int(steps);
    cut_upconv2d(p, other);
    const int64_t waves = ceil_div(other.blocks, multiprocessors * resident);
    const int64_t work = waves * std::min(steps * plan.rows, all_rows);
    if (least >= 0 && work >= least) continue;
    least = work, plan = other;
  }
  cut_upconv2d(p, plan);
  PYFACE_CHECK(plan.blocks < kIndexLimit, op, "x", std::to_string(plan.blocks) + " blocks",
               "fewer than 2147483648");
  return plan;
}

template <class T>
UpconvArguments<T> upconv2d_arguments(const Upconv2dParams& p, const Upconv2dPlan& plan) {
  const UpconvShape shape{int(p.h),
                          int(p.w),
                          int(p.in_channels),
                          int(p.out_channels),
                          plan.steps,
                          p.filter_is_matrix,
                          FastDiv(uint32_t(plan.channel_tiles)),
                          FastDiv(uint32_t(plan.column_tiles)),
                          FastDiv(uint32_t(plan.segments))};
  const auto tensor = [](const void* t) { return static_cast<const float*>(t); };
  // Other activations follow in a pass of their own.
  const Activation<float, false> activation = is_piecewise(p.act)
                                                  ? Activation<float, false>(p.act, p.alpha, p.gain, p.clamp)
                                                  : Activation<float, false>(Act::kLinear, 0, 1, -1);
  const float* next_style = is_piecewise(p.act) ? tensor(p.next_style) : nullptr;
  return {static_cast<const T*>(p.x),
          static_cast<const T*>(p.weight),
          tensor(p.style),
          tensor(p.filter),
          static_cast<T*>(p.y),
          shape,
          {tensor(p.demod), tensor(p.noise), tensor(p.bias), next_style, p.noise_per_sample, activation}};
}

template <class T, class Launcher>
void launch_upconv2d(const Upconv2dParams& p, const Upconv2dPlan& plan, const Launcher& launch) {
  const UpconvArguments<T> a = upconv2d_arguments<T>(p, plan);
  const dim3 grid(unsigned(plan.blocks)), threads(unsigned(plan.threads));
  const size_t shared = size_t(plan.shared_bytes);
  if constexpr (!std::is_same_v<T, float>) {
    if (plan.tensor_cores) {
      with_upconv_tile(plan.tile, [&](auto type) {
        using Tile = typename decltype(type)::type;
        launch("upconv2d_kernel", upconv2d_kernel<T, Tile>, grid, threads, shared, a);
      });
      return;
    }
  }
  launch("upconv2d_simt_kernel", upconv2d_simt_kernel<T>, grid, threads, shared, a);
}

template <class T, class Launcher>
void launch_upconv2d_activation(const Upconv2dParams& p, const Launcher& launch) {
  const int64_t count = 4 * p.h * p.w * p.out_channels;
  const dim3 grid(unsigned(std::min<int64_t>(ceil_div(count, 256), int64_t{launch.multiprocessors()} * 16)),
                  unsigned(std::min<int64_t>(p.n, 65535)));
  launch("upconv2d_activation_kernel", upconv2d_activation_kernel<T>, grid, dim3(256), 0,
         static_cast<T*>(p.y), static_cast<const float*>(p.next_style),
         Activation<float, true>(p.act, p.alpha, p.gain, p.clamp), uint32_t(count), int(p.n),
         FastDiv(uint32_t(p.out_channels)));
}

template <class Launcher>
void run_upconv2d(const Upconv2dParams& p, const Launcher& launch) {
  if (p.n == 0 || p.h == 0 || p.w == 0 || p.out_channels == 0) return;
  const Upconv2dPlan plan = plan_upconv2d(p, launch);
  const auto go = [&](auto type) {
    using T = typename decltype(type)::type;
    launch_upconv2d<T>(p, plan, launch);
    if (!is_piecewise(p.act)) launch_upconv2d_activation<T>(p, launch);
  };
  if (p.dtype == DType::kF32) {
    go(Type<float>{});
  } else if (p.dtype == DType::kF16) {
    go(Type<__half>{});
  } else {
    go(Type<__nv_bfloat16>{});
  }
}

}  // namespace pyface::dev
