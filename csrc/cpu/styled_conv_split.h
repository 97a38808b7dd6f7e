// Layers that keep the size, where the rows of images are whole tiles: one block of input channels after
// another, so that its weights stay in the L1 cache while all pairs of tiles of a chunk are multiplied with
// them. The sums of the chunk wait in the L2 cache, and are finished during the products of the next group.
#pragma once
#include "cpu/styled_conv_plain.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

template <class Products>
struct SplitLayer : PlainLayer<Products> {
  using Base = PlainLayer<Products>;
  using Base::add_to_images;
  using Base::Base;
  using Base::heads_of;
  using Base::in_at;
  using Base::in_blocks;
  using Base::in_plane;
  using Base::kBlock;
  using Base::offsets;
  using Base::out_at;
  using Base::out_groups;
  using Base::out_plane;
  using Base::own;
  using Base::p;
  using Base::place_of;
  using Base::plan;
  using Base::position_of;
  using Base::rectify;
  using Base::sides;
  using Base::weight_of;
  using typename Base::Ahead;
  using typename Base::T;
  static constexpr int64_t kPair = 2 * kTile, kSums = kPair * kOut;

  // The sums of one group for the tiles [first_tile, last_tile), on their way to the output. Position `at` is
  // the next one of `end`.
  struct Finishing {
    int64_t at = 0, end = 0, group = 0, first_tile = 0, last_tile = 0;
    const float *sums = nullptr, *noise = nullptr;
    float* heads = nullptr;  // their sums [position][16]
    T* y = nullptr;
    Place place{};
    int64_t headless = -1;  // a tile whose values are there, and whose heads are not: it and the next one
  };

  // Finishes `count` positions of a tile, from `from.at` on.
  template <bool kStore, bool kHeads>
  PYFACE_INLINE void finish_in_tile(const Finishing& from, int64_t count, T* values) const {
    const int64_t in_tile = from.at % kTile, side = from.place.n * sides.channels + from.group * kOut;
    V16 demod[2], bias[2], style[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      demod[half] = load16_unaligned(sides.demod + side + half * 16);
      bias[half] = load16_unaligned(sides.bias + from.group * kOut + half * 16);
      if (kStore) style[half] = load16_unaligned(sides.style + side + half * 16);
    }
    const float* sums = from.sums + from.at * kOut;
    const float* noise = from.noise == nullptr ? nullptr : from.noise + from.place.x + in_tile;
    T* y = kStore ? from.y + in_tile * kBlock : nullptr;
    values += from.at % (2 * kPair) * kOut;
    for (int64_t i = 0; i < count; ++i) {
      const V16 shift = splat(noise == nullptr ? 0.f : noise[i] * sides.noise_scale);
      const V16 low = rectify(load16(sums + i * kOut) * demod[0] + (bias[0] + shift));
      const V16 high = rectify(load16(sums + i * kOut + 16) * demod[1] + (bias[1] + shift));
      if (kStore) Products::store(y + i * kBlock, out_plane, low * style[0], high * style[1]);
      if (kHeads) Products::store(values + i * kOut, Products::kValues, low, high);
    }
  }

  // Finishes `count` positions, or all that are left. values: [pair 2][position 32][32], for the heads, which
  // the caller adds between products, when the tiles of sums are free.
  template <bool kStore, bool kHeads>
  PYFACE_INLINE void finish_some(Finishing& from, int64_t count, T* values) const {
    while (count > 0 && from.at < from.end) {
      const int64_t in_tile = from.at % kTile, left = kTile - in_tile, now = left < count ? left : count;
      // Heads of a pair are added before the next pair is whole.
      if (kHeads && from.headless >= 0 && (from.at + now == from.end || (from.at + now) % kPair == 0)) return;
      if (in_tile == 0) {
        from.place = place_of(from.first_tile + from.at / kTile);
        from.noise = sides.noise_row(from.place.n, from.place.y);
        if (kStore) from.y = out_at(from.group, from.place);
      }
      finish_in_tile<kStore, kHeads>(from, now, values);
      from.at += now;
      count -= now;
      if (kHeads && (from.at % kPair == 0 || from.at == from.end)) {
        from.headless = (from.at - 1) / kPair * 2;
        return;
      }
    }
  }

  void finish_heads(Finishing& from, const T* values) const {
    if (from.headless < 0) return;
    constexpr int64_t kWeights = kOut * kStyledHeadChannels;
    const T* weights = static_cast<const T*>(p.workspace);
    for (int64_t tile = from.headless; tile < from.headless + 2 && tile * kTile < from.end; ++tile) {
      const int64_t n = place_of(from.first_tile + tile).n;
      Products::add_heads(values + tile % 4 * kTile * kOut,
                          weights + (n * out_groups + from.group) * kWeights,
                          from.heads + tile * kTile * kStyledHeadChannels);
    }
    from.headless = -1;
  }

  // The first positions of a pair of tiles in the first block.
  struct Inputs {
    const T *first, *second;
  };
  Inputs inputs_of(int64_t tile) const {
    const T* first = in_at(position_of(tile));
    return {first, plan.row_tiles % 2 == 0 ? first + kTile * kBlock : in_at(position_of(tile + 1))};
  }

  // The pair of tiles after `tile`: the one below, so that of the three rows that it reads two are in the L1
  // cache, then the next column of pairs; along the rows where the tiles are not whole rows of pairs.
  int64_t tile_after(int64_t tile, int64_t first_tile, int64_t last_tile) const {
    const int64_t row = plan.row_tiles;
    if (row % 2 != 0 || row == 2 || (last_tile - first_tile) % row != 0 || first_tile % row != 0) {
      return tile + 2;
    }
    const int64_t below = tile + row;
    return below < last_tile ? below : first_tile + (tile - first_tile) % row + 2;
  }

  // As PlainLayer::range.
  template <bool kStore, bool kHeads>
  void range(int worker, int64_t begin, int64_t end, int64_t first_group, int64_t last_group) const {
    [[maybe_unused]] const typename Products::Session session;
    float* sums = reinterpret_cast<float*>(own(worker));
    T* values = reinterpret_cast<T*>(own(worker) + plan.sums_bytes);
    constexpr int64_t kPiece = 4, kOne = 256;  // positions at a time; rates are in parts of kOne
    Finishing waiting;
    Ahead ahead{nullptr, plan.ahead_lines};
    int64_t rate = 0, due = 0;
    int turn = 0, chunk_turn = 0;
    const auto finish = [&](int64_t) {
      ahead.step();
      due += rate;
      if (due < kPiece * kOne) return;
      finish_some<kStore, kHeads>(waiting, due / kOne, values);
      due %= kOne;
    };
    // Everything that waits; after the last group of a chunk also its images.
    const auto drain = [&] {
      while (waiting.at < waiting.end || waiting.headless >= 0) {
        if (kHeads) finish_heads(waiting, values);
        finish_some<kStore, kHeads>(waiting, kPair, values);
      }
      if (kHeads && !plan.split_groups && waiting.group + 1 == last_group && waiting.end > 0) {
        add_to_images(waiting.first_tile, waiting.last_tile, waiting.heads);
      }
    };
    for (int64_t first = begin; first < end; first += plan.chunk_pairs, chunk_turn ^= 1) {
      const int64_t last = first + plan.chunk_pairs < end ? first + plan.chunk_pairs : end;
      const int64_t first_tile = 2 * first, last_tile = 2 * last < plan.tiles ? 2 * last : plan.tiles;
      const int64_t tiles = last_tile - first_tile, tile_heads = kTile * kStyledHeadChannels;
      float* heads = heads_of(worker) +
                     (plan.split_groups ? first_tile : chunk_turn * 2 * plan.chunk_pairs) * tile_heads;
      if (kHeads && !plan.split_groups) __builtin_memset(heads, 0, tiles * tile_heads * sizeof(float));
      for (int64_t group = first_group; group < last_group; ++group, turn ^= 1) {
        float* now = sums + turn * plan.chunk_pairs * kSums;
        rate = ((waiting.end - waiting.at) * kOne + (last - first) * this->tap_steps() * 9 - 1) /
               ((last - first) * this->tap_steps() * 9);
        due = 0;
        const T* weight = weight_of(group, 0);
        for (int64_t block = 0; block < in_blocks; ++block, weight += 9 * kOut * kBlock) {
          ahead.at = reinterpret_cast<const char*>(weight + 9 * kOut * kBlock);
          if (last < end && group + 1 == last_group && block + 1 == in_blocks) {
            ahead.at = reinterpret_cast<const char*>(weight_of(first_group, 0));
          }
          const int64_t plane = block * in_plane;
          Inputs x = inputs_of(first_tile);
          for (int64_t tile = first_tile, next, pair = 0; pair < last - first; ++pair, tile = next) {
            const bool ends = pair + 1 == last - first;
            next = ends ? first_tile : tile_after(tile, first_tile, last_tile);
            const Inputs after = inputs_of(next);
            const int64_t next_plane = !ends ? plane : block + 1 < in_blocks ? plane + in_plane : 0;
            const T* a[2] = {x.first + plane, x.second + plane};
            const T* next_a[2] = {after.first + next_plane, after.second + next_plane};
            x = after;
            float* c = now + (tile - first_tile) * kTile * kOut;
            const float* next_c = now + (next - first_tile) * kTile * kOut;
            if (tile + 1 == last_tile) {
              Products::template accumulate<1>(block == 0, a, next_a, offsets, weight, c, next_c, finish);
            } else {
              Products::template accumulate<2>(block == 0, a, next_a, offsets, weight, c, next_c, finish);
            }
            if (kHeads) finish_heads(waiting, values);
          }
        }
        drain();
        waiting = Finishing();
        waiting.end = tiles * kTile;
        waiting.group = group;
        waiting.first_tile = first_tile;
        waiting.last_tile = last_tile;
        waiting.sums = now;
        waiting.heads = heads;
      }
    }
    drain();
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
