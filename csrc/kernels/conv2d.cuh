// Convolution as an implicit matrix product on tensor cores, and the choice of how it is launched.
//   rows      output pixels; those of several images share a tile where images are small
//   columns   output channels
//   depth     taps times input channels, 32 channels of one tap a turn
// Tiles of x and of the weight travel by cp.async through the stages of mma_tiles.cuh; the style multiplies
// A fragments in registers; the epilogue works on the sums in registers. The heads are one more product: the
// sums' registers, rounded to 16 bits, already have the layout of A fragments.
#pragma once
#include "kernels/conv2d_epilogue.cuh"
#include "kernels/conv2d_geometry.cuh"
#include "kernels/conv2d_simt.cuh"
#include "kernels/mma_tiles.cuh"
#include "pyface/conv2d.h"

namespace pyface::dev {

// What the epilogue holds in shared memory, in bytes from its begin; it lies where the stages were.
template <class Tile>
struct EpilogueMemory {
  static constexpr int kStagedPitch =
      Tile::kColumns + 8;  // rows 16 bytes apart modulo 128: no bank conflicts
  static constexpr int kPixel = 0, kNoise = kPixel + Tile::kRows * 4, kSlot = kNoise + Tile::kRows * 4;
  static constexpr int kBias = kSlot + Tile::kRows * 4;
  static constexpr int kHeads = kBias + Tile::kColumns * 4;
  static constexpr int kHeadSums = kHeads + kMaxHeads * kStagedPitch * 2;
  static constexpr int kStaged = kHeadSums + Tile::kWarpsN * Tile::kRows * kMaxHeads * 4;
  static constexpr int kDemod = kStaged + Tile::kRows * kStagedPitch * 2;
  // next_style follows demod; each has a row for each image of the tile.
  static constexpr int bytes(int slots) { return kDemod + 2 * slots * Tile::kColumns * 4; }
};

// Bytes of shared memory before the style's rows.
template <class Tile>
constexpr int style_offset(int slots) {
  return std::max(Tile::kStagesBytes, EpilogueMemory<Tile>::bytes(slots));
}
__device__ __forceinline__ int padded_channels(int channels) { return (channels + 31) & ~31; }

// to[slot, c] = from[image, column + c], 0 beyond the last channel, `other` where there is no tensor.
__device__ __forceinline__ void read_rows(float* to, const float* from, float other, const ConvBlock& block,
                                          int slots, int width, int channels) {
  for (int s = 0; s < slots; s++) {
    const float* row = from ? from + size_t(block.first_slot_image() + s) * channels : nullptr;
    for (int c = threadIdx.x; c < width; c += blockDim.x)
      to[s * width + c] = !row ? other : block.column + c < channels ? row[block.column + c] : 0.f;
  }
}

// Writes the sums of this split as they are.
template <class Tile>
__device__ __forceinline__ void write_partial(const float (&acc)[Tile::kFragmentsM][Tile::kFragmentsN][4],
                                              float* partial, const ConvShape& s, const int* pixels,
                                              int column) {
  float* base = partial + size_t(blockIdx.z) * s.n * s.out_h * s.out_w * s.out_channels;
  PYFACE_UNROLL
  for (int i = 0; i < Tile::kFragmentsM; i++) {
    PYFACE_UNROLL
    for (int half = 0; half < 2; half++) {
      const int pixel = pixels[fragment_row<Tile>(i, half * 2)];
      if (pixel < 0) continue;
      PYFACE_UNROLL
      for (int j = 0; j < Tile::kFragmentsN; j++) {
        const int o = column + fragment_column<Tile>(j, 0);
        float* to = base + size_t(pixel) * s.out_channels + o;
        if (o + 1 < s.out_channels && !(s.out_channels & 1)) {
          *reinterpret_cast<Vec<float, 2>*>(to) = {acc[i][j][half * 2], acc[i][j][half * 2 + 1]};
        } else {
          if (o < s.out_channels) to[0] = acc[i][j][half * 2];
          if (o + 1 < s.out_channels) to[1] = acc[i][j][half * 2 + 1];
        }
      }
    }
  }
}

// Sums to outputs: into `staged` in shared memory, and for the heads into `head_sums`.
template <class T, class Tile, bool kManyImages>
__device__ __forceinline__ void finish_sums(const float (&acc)[Tile::kFragmentsM][Tile::kFragmentsN][4],
                                            unsigned char* memory, int slots, const ConvEpilogue<false>& e,
                                            bool with_heads) {
  using Memory = EpilogueMemory<Tile>;
  const auto* noise = reinterpret_cast<const float*>(memory + Memory::kNoise);
  const auto* slot_of = reinterpret_cast<const int*>(memory + Memory::kSlot);
  const auto* bias = reinterpret_cast<const float*>(memory + Memory::kBias);
  const auto* demod = reinterpret_cast<const float*>(memory + Memory::kDemod);
  const float* next_style = demod + slots * Tile::kColumns;
  const T* heads = reinterpret_cast<const T*>(memory + Memory::kHeads);
  auto* head_sums = reinterpret_cast<float*>(memory + Memory::kHeadSums);
  T* staged = reinterpret_cast<T*>(memory + Memory::kStaged);
  float dots[Tile::kFragmentsM][4] = {};
  PYFACE_UNROLL
  for (int j = 0; j < Tile::kFragmentsN; j += 2) {
    PYFACE_UNROLL
    for (int i = 0; i < Tile::kFragmentsM; i++) {
      uint32_t fragment[4];  // of the outputs before next_style, as A
      PYFACE_UNROLL
      for (int half = 0; half < 2; half++) {
        const int row = fragment_row<Tile>(i, half * 2);
        const int slot = kManyImages ? slot_of[row] * Tile::kColumns : 0;
        PYFACE_UNROLL
        for (int side = 0; side < 2; side++) {
          const int c = fragment_column<Tile>(j + side, 0);
          const auto scale = *reinterpret_cast<const Vec<float, 2>*>(demod + slot + c);
          const auto shift = *reinterpret_cast<const Vec<float, 2>*>(bias + c);
          const auto next = *reinterpret_cast<const Vec<float, 2>*>(next_style + slot + c);
          float v[2] = {acc[i][j + side][half * 2] * scale.v[0] + noise[row] + shift.v[0],
                        acc[i][j + side][half * 2 + 1] * scale.v[1] + noise[row] + shift.v[1]};
          e.activation.apply(v);
          if (with_heads) fragment[side * 2 + half] = pack_pair<T>(v[0], v[1]);
          *reinterpret_cast<uint32_t*>(staged + row * Memory::kStagedPitch + c) =
              pack_pair<T>(v[0] * next.v[0], v[1] * next.v[1]);
        }
      }
      if (with_heads) {
        const T* from = heads + (threadIdx.x >> 2 & 7) * Memory::kStagedPitch + fragment_column<Tile>(j, 0);
        const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(from),
                               *reinterpret_cast<const uint32_t*>(from + 8)};
        mma_m16n8k16<kIsBfloat16<T>>(dots[i], fragment, b);
      }
    }
  }
  if (!with_heads) return;
  PYFACE_UNROLL
  for (int i = 0; i < Tile::kFragmentsM; i++) {
    PYFACE_UNROLL
    for (int half = 0; half < 2; half++) {
      const int row =
          Tile::warp_column() / Tile::kWarpColumns * Tile::kRows + fragment_row<Tile>(i, half * 2);
      *reinterpret_cast<Vec<float, 2>*>(head_sums + row * kMaxHeads + (threadIdx.x & 3) * 2) = {
          dots[i][half * 2], dots[i][half * 2 + 1]};
    }
  }
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) conv2d_kernel(const ConvArguments<T> a) {
  using Memory = EpilogueMemory<Tile>;
  constexpr int kDepth = Tile::kDepth, kCopyRows = Tile::kThreads / 4;
  constexpr int kCopiesA = Tile::kRows / kCopyRows, kCopiesB = Tile::kColumns / kCopyRows;
  constexpr bool kManyImages = Tile::kRows == 64;
  static_assert(Tile::kRows <= Tile::kThreads && Tile::kRows % kCopyRows == 0, "a thread locates one row");
  static_assert(Tile::kColumns % kCopyRows == 0 && kCopyRows % 8 == 0, "threads copy whole tiles");
  PYFACE_SHARED(memory);
  const ConvShape& s = a.shape;
  const int thread = threadIdx.x;
  const ConvBlock block(s, Tile::kRows, Tile::kColumns);
  if (block.first_row >= block.rows()) return;
  T* stages = reinterpret_cast<T*>(memory);
  T* style = reinterpret_cast<T*>(memory + a.style_offset);
  const int slots = kManyImages ? block.slots(Tile::kRows) : 1;
  const int channels = s.in_channels, padded = padded_channels(channels);

  // Rows lie in the last stage until everybody has read them: it is filled last.
  int* rows = reinterpret_cast<int*>(stages + (Tile::kStages - 1) * Tile::kStageElements);
  ConvRow own{0, 0, 0, -1};
  if (thread < Tile::kRows) {
    own = locate_row(s, block, thread);
    rows[thread] = int(own.source);
    rows[Tile::kRows + thread] = int(own.taps);
    if (kManyImages) rows[2 * Tile::kRows + thread] = own.slot;
  }
  if (a.style) {
    for (int slot = 0; slot < slots; slot++) {
      const float* from = a.style + size_t(block.first_slot_image() + slot) * channels;
      for (int i = thread; i < padded; i += Tile::kThreads)
        style[slot * padded + i] = narrow<T>(i < channels ? from[i] : 0.f);
    }
  }
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
      const int slot = kManyImages ? rows[2 * Tile::kRows + fragment_row<Tile>(i, half * 2)] : 0;
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
            const T* from = row_style[kManyImages ? i : 0][kManyImages ? r & 1 : 0];
            f[r] = multiply_pairs<T>(
                f[r], *reinterpret_cast<const uint32_t*>(from + channel + depth + (r >> 1) * 8));
          }
        });
    channel = channel + kDepth < channels ? channel + kDepth : 0;
  };
  run_stages<Tile::kStages>(turns.count(), load, multiply);

  auto* pixels = reinterpret_cast<int*>(memory + Memory::kPixel);
  const int image_pixels = s.out_h * s.out_w;
  if (thread < Tile::kRows) {
    pixels[thread] = own.pixel;
    reinterpret_cast<int*>(memory + Memory::kSlot)[thread] = own.slot;
    const int image = block.first_slot_image() + own.slot;
    reinterpret_cast<float*>(memory + Memory::kNoise)[thread] =
        a.epilogue.noise && own.pixel >= 0
            ? a.epilogue.noise[a.epilogue.noise_per_sample ? own.pixel : own.pixel - image * image_pixels]
            : 0.f;
  }
  if (a.partial) {
    __syncthreads();
    write_partial<Tile>(acc, a.partial, s, pixels, block.column);
    return;
  }
  auto* demod = reinterpret_cast<float*>(memory + Memory::kDemod);
  read_rows(demod, a.epilogue.demod, 1.f, block, slots, Tile::kColumns, s.out_channels);
  read_rows(demod + slots * Tile::kColumns, a.epilogue.next_style, 1.f, block, slots, Tile::kColumns,
            s.out_channels);
  for (int c = thread; c < Tile::kColumns; c += Tile::kThreads) {
    const bool ok = a.epilogue.bias && block.column + c < s.out_channels;
    reinterpret_cast<float*>(memory + Memory::kBias)[c] = ok ? a.epilogue.bias[block.column + c] : 0.f;
  }
  const bool with_heads = a.heads.weights != nullptr;  // then one image and all channels lie in this tile
  if (with_heads) {
    T* heads = reinterpret_cast<T*>(memory + Memory::kHeads);
    for (int at = thread; at < kMaxHeads * Tile::kColumns; at += Tile::kThreads) {
      const int k = at / Tile::kColumns, o = at - k * Tile::kColumns;
      const bool ok = k < a.heads.count && o < s.out_channels;
      const float* row = a.heads.weights + (size_t(block.first_image) * a.heads.count + k) * s.out_channels;
      heads[k * Memory::kStagedPitch + o] = narrow<T>(ok ? row[o] : 0.f);
    }
  }
  __syncthreads();
  finish_sums<T, Tile, kManyImages>(acc, memory, slots, a.epilogue, with_heads);
  __syncthreads();

  const T* staged = reinterpret_cast<const T*>(memory + Memory::kStaged);
  if (a.y && s.out_channels % 8 == 0) {
    constexpr int kChunks = Tile::kColumns / 8;
    for (int at = thread; at < Tile::kRows * kChunks; at += Tile::kThreads) {
      const int row = at / kChunks, o = block.column + at % kChunks * 8;
      if (pixels[row] < 0 || o >= s.out_channels) continue;
      *reinterpret_cast<Vec<T, 8>*>(a.y + (size_t(pixels[row]) * s.out_channels + o)) =
          *reinterpret_cast<const Vec<T, 8>*>(staged + row * Memory::kStagedPitch + at % kChunks * 8);
    }
  } else if (a.y) {
    for (int at = thread; at < Tile::kRows * Tile::kColumns; at += Tile::kThreads) {
      const int row = at / Tile::kColumns, c = at % Tile::kColumns, o = block.column + c;
      if (pixels[row] < 0 || o >= s.out_channels) continue;
      a.y[size_t(pixels[row]) * s.out_channels + o] = staged[row * Memory::kStagedPitch + c];
    }
  }
  if (!with_heads) return;
  const auto* head_sums = reinterpret_cast<const float*>(memory + Memory::kHeadSums);
  for (int at = thread; at < Tile::kRows * a.heads.count; at += Tile::kThreads) {
    const int k = at / Tile::kRows, row = at % Tile::kRows, pixel = pixels[row];
    if (pixel < 0) continue;
    float sum = 0.f;
    PYFACE_UNROLL
    for (int part = 0; part < Tile::kWarpsN; part++)
      sum += head_sums[(part * Tile::kRows + row) * kMaxHeads + k];
    const int position = pixel - block.first_image * image_pixels, y = position / s.out_w;
    write_head(a.heads, sum, k, block.first_image, y, position - y * s.out_w, s.out_h, s.out_w);
  }
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

// Calls f(Type<MmaTile<...>>{}) with tile number `tile`.
template <class F>
void with_conv_tile(int tile, F&& f) {
  switch (tile) {
    case 0:
      return f(ConvTileOf<0>{});
    case 1:
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
int64_t conv_shared_bytes(const Conv2dParams& p, int64_t group) {
  const int slots = tile_slots(group, phase_positions(p), Tile::kRows);
  return style_offset<Tile>(slots) + (p.style ? slots * ceil_div(p.in_channels, 32) * 64 : 0);
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
  const auto blocks_of = [&](int rows, int columns, int64_t group) {
    return ceil_div(plan.samples, group) * ceil_div(group * positions, rows) *
           ceil_div(p.out_channels, columns) * phases;
  };
  const auto take = [&](int tile) {
    with_conv_tile(tile, [&](auto type) {
      using Tile = typename decltype(type)::type;
      plan.tile = tile, plan.rows = Tile::kRows, plan.columns = Tile::kColumns, plan.group = 1;
      const bool shares = Tile::kRows == 64 && positions % 64 && plan.samples > 1;
      if (shares && conv_shared_bytes<Tile>(p, plan.samples) <= kSharedBudget) plan.group = int(plan.samples);
      if (conv_shared_bytes<Tile>(p, plan.group) > kSharedBudget) plan.tensor_cores = false;
    });
  };
  if (plan.tensor_cores) {
    PYFACE_CHECK(launch.capability() >= 80, op, "compute capability of the device",
                 std::to_string(launch.capability()),
                 "80 and up for float16 and bfloat16; float32 runs on this device");
    take(p.tile >= 0 ? p.tile : p.out_channels <= 32 ? 3 : p.out_channels <= 64 ? 1 : 0);
    if (p.tile < 0 && (positions < 128 || blocks_of(plan.rows, plan.columns, 1) * 2 < wanted)) take(2);
  }
  if (!plan.tensor_cores) plan.tile = -1, plan.rows = plan.columns = 64, plan.group = int(plan.samples);
  const int64_t blocks = blocks_of(plan.rows, plan.columns, plan.group);
  const int64_t most = std::max<int64_t>(1, std::min<int64_t>(turns / 4, 32));
  plan.splits =
      int(p.splits ? p.splits : std::clamp<int64_t>(wanted / std::max<int64_t>(blocks, 1), 1, most));
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
                        FastDiv(uint32_t(ceil_div(group * phase_positions(p), plan.rows)))};
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
        a.style_offset = style_offset<Tile>(tile_slots(s.group, phase_positions(p), Tile::kRows));
        launch("conv2d_kernel", conv2d_kernel<T, Tile>, grid, dim3(Tile::kThreads),
               size_t(conv_shared_bytes<Tile>(p, s.group)), a);
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
  const int64_t blocks = ceil_div(plan.samples, plan.group) *
                         ceil_div(plan.group * phase_positions(p), plan.rows) *
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

}  // namespace pyface::dev
