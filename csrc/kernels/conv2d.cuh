// Convolution as an implicit matrix product on tensor cores, and the choice of how it is launched.
//   rows      output pixels; those of several images share a tile where images are small
//   columns   output channels
//   depth     taps times input channels, 32 channels of one tap a turn
// Tiles of x and of the weight travel by cp.async through the stages of mma_tiles.cuh; the style multiplies
// A fragments in registers; the epilogue works on the sums in registers. The heads are one more product: the
// sums' registers, rounded to 16 bits, already have the layout of A fragments.
#pragma once
#include "kernels/conv2d_patch.cuh"
#include "kernels/conv2d_simt.cuh"
#include "kernels/conv2d_tile.cuh"

namespace pyface::dev {

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) conv2d_kernel(const ConvArguments<T> a) {
  constexpr int kDepth = Tile::kDepth, kCopyRows = Tile::kThreads / 4;
  constexpr int kCopiesA = Tile::kRows / kCopyRows, kCopiesB = Tile::kColumns / kCopyRows;
  constexpr bool kMany = kManyImages<Tile>;
  static_assert(Tile::kRows <= Tile::kThreads && Tile::kRows % kCopyRows == 0, "a thread locates one row");
  static_assert(Tile::kColumns % kCopyRows == 0 && kCopyRows % 8 == 0, "threads copy whole tiles");
  PYFACE_SHARED(memory);
  const ConvShape& s = a.shape;
  const int thread = threadIdx.x;
  const ConvBlock block(s, Tile::kRows, Tile::kColumns);
  if (block.first_row >= block.rows()) return;
  T* stages = reinterpret_cast<T*>(memory);
  T* style = reinterpret_cast<T*>(memory + a.style_offset);
  const TilePlace place{block.first_slot_image(), kMany ? block.slots(Tile::kRows) : 1, block.column};
  const int channels = s.in_channels, padded = padded_channels(channels);

  // Rows lie in the last stage until everybody has read them: it is filled last.
  int* rows = reinterpret_cast<int*>(stages + (Tile::kStages - 1) * Tile::kStageElements);
  ConvRow own{0, 0, 0, -1};
  if (thread < Tile::kRows) {
    own = locate_row(s, block, thread);
    rows[thread] = int(own.source);
    rows[Tile::kRows + thread] = int(own.taps);
    if (kMany) rows[2 * Tile::kRows + thread] = own.slot;
  }
  if (a.style) read_style(style, a.style, place, channels);
  __syncthreads();

  // This thread copies chunk `chunk` of rows thread / 4, thread / 4 + kCopyRows, ... of both tiles.
  const int copy_row = thread >> 2, chunk = thread & 3;
  uint32_t source[kCopiesA];
  uint32_t taps[kCopiesA];
  PYFACE_UNROLL
  for (int i = 0; i < kCopiesA; i++) {
    source[i] = uint32_t(rows[copy_row + i * kCopyRows]) + uint32_t(chunk) * 8;
    taps[i] = uint32_t(rows[Tile::kRows + copy_row + i * kCopyRows]);
  }
  const T* row_style[Tile::kFragmentsM][2];
  PYFACE_UNROLL
  for (int i = 0; i < Tile::kFragmentsM; i++) {
    PYFACE_UNROLL
    for (int half = 0; half < 2; half++) {
      const int slot = kMany ? rows[2 * Tile::kRows + fragment_row<Tile>(i, half * 2)] : 0;
      row_style[i][half] = style + kept(slot * padded + (thread & 3) * 2);
    }
  }
  // Columns beyond the last channel repeat it: they are not written.
  uint32_t filter[kCopiesB];
  PYFACE_UNROLL
  for (int i = 0; i < kCopiesB; i++) {
    const int o = block.column + copy_row + i * kCopyRows;
    filter[i] = uint32_t(
        kept((o < s.out_channels ? o : s.out_channels - 1) * s.kernel * s.kernel * channels + chunk * 8));
  }
  const ConvTurns turns(s, block, kDepth);
  ConvWalk walk(s, block, turns, kDepth);
  uint32_t inside = 0;  // bit i: copy i of x lies in the image at this tap
  const auto take_tap = [&] {
    const int bit = walk.bit(block);
    inside = 0;
    PYFACE_UNROLL
    for (int i = 0; i < kCopiesA; i++) inside |= (taps[i] >> bit & 1u) << i;
  };
  take_tap();
  const int copy_to = kept(Swizzle<kDepth>::at(copy_row, chunk));  // kCopyRows on the exchange is the same
  const int end = kept(channels - chunk * 8);
  const auto load = [&](int, int stage) {
    T* to = stages + stage * Tile::kStageElements + copy_to;
    const bool any = walk.channel < end;
    const uint32_t valid = any ? inside : 0u;
    PYFACE_UNROLL
    for (int i = 0; i < kCopiesA; i++) {  // of what lies outside nothing is read
      async_copy16_if(to + i * kCopyRows * kDepth, a.x + size_t(source[i] + walk.source), valid >> i & 1u);
    }
    to += Tile::kRows * kDepth;
    PYFACE_UNROLL
    for (int i = 0; i < kCopiesB; i++)
      async_copy16_if(to + i * kCopyRows * kDepth, a.weight + size_t(filter[i] + uint32_t(walk.weight)), any);
    if (walk.advance(s, block, kDepth)) take_tap();
  };
  float acc[Tile::kFragmentsM][Tile::kFragmentsN][4] = {};
  int channel = ConvWalk(s, block, turns, kDepth).channel;
  const RowReads<Tile> reads;
  const auto multiply = [&](int, int stage) {
    const T* tile_a = stages + stage * Tile::kStageElements;
    multiply_rows<T, Tile>(
        acc, tile_a, tile_a + Tile::kRows * kDepth, reads, [&](uint32_t (&f)[4], int i, int depth) {
          if (!a.style) return;
          PYFACE_UNROLL
          for (int r = 0; r < 4; r++) {
            const T* from = row_style[kMany ? i : 0][kMany ? r & 1 : 0];
            f[r] = multiply_pairs<T>(
                f[r], *reinterpret_cast<const uint32_t*>(from + channel + depth + (r >> 1) * 8));
          }
        });
    channel = channel + kDepth < channels ? channel + kDepth : 0;
  };
  run_stages<Tile::kStages>(turns.count(), load, multiply);

  finish_tile<T, Tile>(acc, a, memory, place, own.pixel, own.slot);
}

// ---- host: the choice of the launch

template <int kTile>
struct ConvTileOf;
template <>
struct ConvTileOf<0> : Type<MmaTile<128, 128, 64, 64, 3, 2>> {};
template <>
struct ConvTileOf<1> : Type<MmaTile<128, 64, 64, 32, 4, 3>> {};
template <>
struct ConvTileOf<2> : Type<MmaTile<64, 64, 32, 32, 4, 4>> {};
template <>
struct ConvTileOf<3> : Type<MmaTile<128, 32, 32, 32, 4, 4>> {};

// Tiles 4 to 6 are 0, 1 and 3 over patches.
inline bool is_patch_tile(int tile) { return tile >= 4; }

// Calls f(Type<MmaTile<...>>{}) with tile number `tile`.
template <class F>
void with_conv_tile(int tile, F&& f) {
  switch (tile) {
    case 0:
    case 4:
      return f(ConvTileOf<0>{});
    case 1:
    case 5:
      return f(ConvTileOf<1>{});
    case 2:
      return f(ConvTileOf<2>{});
    default:
      return f(ConvTileOf<3>{});
  }
}

constexpr int64_t kSharedBudget = 99 * 1024;  // of a block on the smallest of sm_80 .. sm_120

inline int64_t output_steps(const Conv2dParams& p) { return p.transposed ? p.stride : 1; }
// Output positions of the largest phase of one image.
inline int64_t phase_positions(const Conv2dParams& p) {
  return ceil_div(p.out_h, output_steps(p)) * ceil_div(p.out_w, output_steps(p));
}
// Images that a tile of `rows` rows may touch.
inline int tile_slots(int64_t group, int64_t positions, int rows) {
  return int(std::min(group, (rows + positions - 2) / positions + 1));
}

template <class Tile>
int64_t conv_style_offset(int tile, int slots) {
  return is_patch_tile(tile) ? std::max(kPatchBytes<Tile>, EpilogueMemory<Tile>::bytes(1))
                             : std::max(Tile::kStagesBytes, EpilogueMemory<Tile>::bytes(slots));
}
template <class Tile>
int64_t conv_shared_bytes(const Conv2dParams& p, int tile, int64_t group) {
  const int slots = tile_slots(group, phase_positions(p), Tile::kRows);
  return conv_style_offset<Tile>(tile, slots) + (p.style ? slots * ceil_div(p.in_channels, 32) * 64 : 0);
}

inline bool can_take_patches(const Conv2dParams& p) { return p.kernel == 3 && p.stride == 1; }
inline int64_t patches_of(const Conv2dParams& p) {
  return ceil_div(p.out_h, kPatchRows) * ceil_div(p.out_w, kPatchColumns);
}
// Row tiles of `group` images.
inline int64_t row_tiles_of(const Conv2dParams& p, const Conv2dPlan& plan, int64_t group) {
  return is_patch_tile(plan.tile) ? group * patches_of(p)
                                  : ceil_div(group * std::max<int64_t>(phase_positions(p), 1), plan.rows);
}

// The rule: as wide as the output channels ask for; 64x64 where images are smaller than 128 positions or
// there are fewer blocks than multiprocessors; and if even then two blocks do not come on each, the sum is
// split, in parts of 4 turns and more.
template <class Launcher>
Conv2dPlan plan_conv2d(const Conv2dParams& p, const Launcher& launch) {
  const char* op = "conv2d";
  Conv2dPlan plan{};
  const int64_t limit = launch.index_limit() - (launch.index_limit() >> 12) - 1;
  const int64_t pixels = p.out_h * p.out_w;
  const int64_t largest =
      std::max({p.h * p.w * p.in_channels, pixels * p.out_channels, pixels * p.head_count});
  PYFACE_CHECK(largest < limit, op, "x or y", std::to_string(largest) + " elements a sample",
               "fewer than " + std::to_string(limit));
  const int64_t filters = p.out_channels * p.kernel * p.kernel * p.in_channels;
  PYFACE_CHECK(filters < limit, op, "weight", std::to_string(filters) + " elements",
               "fewer than " + std::to_string(limit));
  plan.samples =
      std::max<int64_t>(1, std::min({p.n, (limit - 1) / std::max<int64_t>(largest, 1), int64_t{65535}}));
  plan.tensor_cores =
      p.dtype != DType::kF32 && p.in_channels % 8 == 0 && aligned16(p.x) && aligned16(p.weight);
  const int64_t positions = std::max<int64_t>(phase_positions(p), 1),
                phases = output_steps(p) * output_steps(p);
  const int64_t turn = plan.tensor_cores ? 32 : 16, taps = ceil_div(p.kernel, output_steps(p));
  const int64_t turns = taps * taps * ceil_div(p.in_channels, turn);
  const int64_t wanted = 2 * int64_t{launch.multiprocessors()};
  const auto blocks = [&] {
    return ceil_div(plan.samples, plan.group) * row_tiles_of(p, plan, plan.group) *
           ceil_div(p.out_channels, plan.columns) * phases;
  };
  const auto take = [&](int tile) {
    with_conv_tile(tile, [&](auto type) {
      using Tile = typename decltype(type)::type;
      plan.tile = tile, plan.rows = Tile::kRows, plan.columns = Tile::kColumns, plan.group = 1;
      const bool shares = Tile::kRows == 64 && positions % 64 && plan.samples > 1;
      if (shares && conv_shared_bytes<Tile>(p, tile, plan.samples) <= kSharedBudget)
        plan.group = int(plan.samples);
      if (conv_shared_bytes<Tile>(p, tile, plan.group) > kSharedBudget) plan.tensor_cores = false;
    });
  };
  if (plan.tensor_cores) {
    PYFACE_CHECK(launch.capability() >= 80, op, "compute capability of the device",
                 std::to_string(launch.capability()),
                 "80 and up for float16 and bfloat16; float32 runs on this device");
    take(p.tile >= 0 ? p.tile : p.out_channels <= 32 ? 3 : p.out_channels <= 64 ? 1 : 0);
    if (p.tile < 0 && (positions < 128 || blocks() * 2 < wanted)) take(2);
    const bool few_more = patches_of(p) * 8 <= ceil_div(positions, 128) * 9;
    if (p.tile < 0 && plan.tile != 2 && p.splits <= 1 && can_take_patches(p) && few_more)
      take(plan.tile == 3 ? 6 : plan.tile + 4);
    PYFACE_CHECK(!is_patch_tile(plan.tile) || (can_take_patches(p) && p.splits <= 1), op, "tile",
                 std::to_string(plan.tile), "0 to 3 where taps are not 3x3 of stride 1 or the sum is split");
  }
  if (!plan.tensor_cores) plan.tile = -1, plan.rows = plan.columns = 64, plan.group = int(plan.samples);
  const int64_t most = is_patch_tile(plan.tile) ? 1 : std::max<int64_t>(1, std::min<int64_t>(turns / 4, 32));
  plan.splits =
      int(p.splits ? p.splits : std::clamp<int64_t>(wanted / std::max<int64_t>(blocks(), 1), 1, most));
  const bool two_passes = plan.splits > 1 || !is_piecewise(p.act);
  plan.workspace_bytes = two_passes ? plan.splits * plan.samples * pixels * p.out_channels * 4 : 0;
  plan.fused_heads = p.head_count > 0 && plan.tensor_cores && !two_passes && plan.group == 1 &&
                     p.out_channels <= plan.columns;
  return plan;
}

// ---- host: the launches

template <class T>
const T* advanced(const void* p, int64_t elements) {
  return p ? static_cast<const T*>(p) + elements : nullptr;
}

inline Heads heads_of(const Conv2dParams& p, int64_t first) {
  const int64_t planes = first * p.head_count;
  return {advanced<float>(p.heads, planes * p.out_channels),
          static_cast<const float*>(p.head_bias),
          advanced<float>(p.skip, planes * (p.out_h / 2) * (p.out_w / 2)),
          static_cast<const float*>(p.skip_filter),
          p.image ? static_cast<float*>(p.image) + planes * p.out_h * p.out_w : nullptr,
          p.head_count,
          float(p.head_clamp),
          p.add_to_image};
}

template <bool kSmooth>
ConvEpilogue<kSmooth> epilogue_of(const Conv2dParams& p, int64_t first) {
  return {advanced<float>(p.demod, first * p.out_channels),
          advanced<float>(p.noise, p.noise_per_sample ? first * p.out_h * p.out_w : 0),
          static_cast<const float*>(p.bias),
          advanced<float>(p.next_style, first * p.out_channels),
          p.noise_per_sample,
          Activation<float, kSmooth>(p.act, p.alpha, p.gain, p.clamp)};
}

// The part from sample `first` on, `n` samples.
template <class T>
ConvArguments<T> arguments_of(const Conv2dParams& p, const Conv2dPlan& plan, int64_t first, int64_t n) {
  const int64_t group = std::min<int64_t>(plan.group, n);
  const ConvShape shape{int(n),
                        int(p.h),
                        int(p.w),
                        int(p.in_channels),
                        int(p.out_h),
                        int(p.out_w),
                        int(p.out_channels),
                        p.kernel,
                        p.stride,
                        p.pad_y,
                        p.pad_x,
                        p.transposed,
                        int(group),
                        plan.splits,
                        FastDiv(uint32_t(ceil_div(p.out_channels, plan.columns))),
                        FastDiv(uint32_t(row_tiles_of(p, plan, group)))};
  return {advanced<T>(p.x, first * p.h * p.w * p.in_channels),
          static_cast<const T*>(p.weight),
          advanced<float>(p.style, first * p.in_channels),
          p.y ? static_cast<T*>(p.y) + first * p.out_h * p.out_w * p.out_channels : nullptr,
          plan.workspace_bytes ? static_cast<float*>(p.workspace) : nullptr,
          shape,
          epilogue_of<false>(p, first),
          plan.fused_heads ? heads_of(p, first) : Heads{},
          0};
}

template <class T, class Launcher>
void launch_conv2d(const Conv2dParams& p, const Conv2dPlan& plan, int64_t first, int64_t n,
                   const Launcher& launch) {
  ConvArguments<T> a = arguments_of<T>(p, plan, first, n);
  const ConvShape& s = a.shape;
  const int64_t groups = ceil_div(n, s.group);
  const dim3 grid(unsigned(groups * s.row_tiles.divisor * s.column_tiles.divisor),
                  unsigned(output_steps(p) * output_steps(p)), unsigned(plan.splits));
  if constexpr (!std::is_same_v<T, float>) {
    if (plan.tensor_cores) {
      with_conv_tile(plan.tile, [&](auto type) {
        using Tile = typename decltype(type)::type;
        a.style_offset =
            int(conv_style_offset<Tile>(plan.tile, tile_slots(s.group, phase_positions(p), Tile::kRows)));
        const size_t shared = size_t(conv_shared_bytes<Tile>(p, plan.tile, s.group));
        if constexpr (Tile::kRows == kPatchRows * kPatchColumns) {
          if (is_patch_tile(plan.tile)) {
            launch("conv2d_patch_kernel", conv2d_patch_kernel<T, Tile>, grid, dim3(Tile::kThreads), shared,
                   a);
            return;
          }
        }
        launch("conv2d_kernel", conv2d_kernel<T, Tile>, grid, dim3(Tile::kThreads), shared, a);
      });
      return;
    }
  }
  const bool vectors = std::is_same_v<T, float> && p.in_channels % 4 == 0 && p.out_channels % 4 == 0 &&
                       aligned16(p.x) && aligned16(p.weight) && aligned16(p.y);
  if constexpr (std::is_same_v<T, float>) {
    if (vectors)
      return launch("conv2d_simt_kernel", conv2d_simt_kernel<T, 4>, grid, dim3(256), kSimtSharedBytes, a);
  }
  launch("conv2d_simt_kernel", conv2d_simt_kernel<T, 1>, grid, dim3(256), kSimtSharedBytes, a);
}

// y of the partial sums, where the convolution wrote those.
template <class T, class Launcher>
void launch_conv2d_reduce(const Conv2dParams& p, const Conv2dPlan& plan, int64_t first, int64_t n,
                          const Launcher& launch) {
  const int64_t pixels = p.out_h * p.out_w, count = n * pixels * p.out_channels;
  const dim3 grid(unsigned(std::min<int64_t>(ceil_div(count, 256), int64_t{launch.multiprocessors()} * 16)));
  const auto go = [&](auto kernel, auto epilogue) {
    launch("conv2d_reduce_kernel", kernel, grid, dim3(256), 0, static_cast<const float*>(p.workspace),
           static_cast<T*>(p.y) + first * pixels * p.out_channels, epilogue, uint32_t(count), plan.splits,
           FastDiv(uint32_t(p.out_channels)), FastDiv(uint32_t(pixels)));
  };
  if (is_piecewise(p.act)) {
    go(conv2d_reduce_kernel<T, false>, epilogue_of<false>(p, first));
  } else {
    go(conv2d_reduce_kernel<T, true>, epilogue_of<true>(p, first));
  }
}

template <class T, class Launcher>
void launch_conv2d_heads(const Conv2dParams& p, int64_t first, int64_t n, const Launcher& launch) {
  const int64_t pixels = p.out_h * p.out_w;
  const int64_t blocks = std::min<int64_t>(ceil_div(pixels, 8 * 4), int64_t{launch.multiprocessors()} * 8);
  const bool vectors = p.out_channels % kVector<T> == 0 && aligned16(p.y) && aligned16(p.heads);
  launch("conv2d_heads_kernel", vectors ? conv2d_heads_kernel<T, kVector<T>> : conv2d_heads_kernel<T, 1>,
         dim3(unsigned(blocks), unsigned(n)), dim3(256), 0,
         static_cast<const T*>(p.y) + first * pixels * p.out_channels, heads_of(p, first), int(p.out_h),
         int(p.out_w), int(p.out_channels));
}

template <class Launcher>
void run_conv2d(const Conv2dParams& p, const Launcher& launch) {
  const char* op = "conv2d";
  if (p.n == 0 || p.out_h == 0 || p.out_w == 0 || p.out_channels == 0) return;
  const Conv2dPlan plan = plan_conv2d(p, launch);
  const bool separate_heads = p.heads && !plan.fused_heads;
  PYFACE_CHECK(p.workspace_bytes >= plan.workspace_bytes, op, "workspace_bytes",
               std::to_string(p.workspace_bytes), std::to_string(plan.workspace_bytes) + " and more");
  if (plan.workspace_bytes) {
    check_pointer(op, "workspace", p.workspace);
    PYFACE_CHECK(aligned16(p.workspace), op, "workspace", "at an odd address", "a multiple of 16");
  }
  PYFACE_CHECK(p.y || (plan.fused_heads && !plan.workspace_bytes), op, "y", "a null pointer",
               "the address of a tensor where heads are not fused");
  PYFACE_CHECK(!(separate_heads && p.next_style), op, "next_style", "given beside heads that are not fused",
               "null: multiply y afterwards");
  const int64_t blocks = ceil_div(plan.samples, plan.group) * row_tiles_of(p, plan, plan.group) *
                         ceil_div(p.out_channels, plan.columns);
  PYFACE_CHECK(blocks < kIndexLimit, op, "x", std::to_string(blocks) + " tiles", "fewer than 2147483648");
  const auto go = [&](auto type) {
    using T = typename decltype(type)::type;
    for (int64_t first = 0; first < p.n; first += plan.samples) {
      const int64_t n = std::min(plan.samples, p.n - first);
      launch_conv2d<T>(p, plan, first, n, launch);
      if (plan.workspace_bytes) launch_conv2d_reduce<T>(p, plan, first, n, launch);
      if (separate_heads) launch_conv2d_heads<T>(p, first, n, launch);
    }
  };
  if (p.dtype == DType::kF32) {
    go(Type<float>{});
  } else if (p.dtype == DType::kF16) {
    go(Type<__half>{});
  } else {
    go(Type<__nv_bfloat16>{});
  }
}

// The heads alone, of features that something else has made.
template <class Launcher>
void run_conv2d_heads(const Conv2dParams& p, const Launcher& launch) {
  if (p.n == 0 || p.out_h == 0 || p.out_w == 0 || p.out_channels == 0) return;
  if (p.dtype == DType::kF32) {
    launch_conv2d_heads<float>(p, 0, p.n, launch);
  } else if (p.dtype == DType::kF16) {
    launch_conv2d_heads<__half>(p, 0, p.n, launch);
  } else {
    launch_conv2d_heads<__nv_bfloat16>(p, 0, p.n, launch);
  }
}

}  // namespace pyface::dev
