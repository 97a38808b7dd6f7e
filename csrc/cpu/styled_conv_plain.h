// Layers that keep the size: products of pairs of tiles, each followed by everything else that happens to it.
#pragma once
#include "cpu/styled_conv_image.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

template <class Products>
struct PlainLayer : Layer<Products> {
  using Base = Layer<Products>;
  using Base::Base;
  using Base::in_at;
  using Base::in_blocks;
  using Base::in_plane;
  using Base::in_row;
  using Base::kBlock;
  using Base::kParts;
  using Base::offsets;
  using Base::out_at;
  using Base::out_groups;
  using Base::out_plane;
  using Base::p;
  using Base::plan;
  using Base::rectify;
  using Base::sides;
  using Base::weight_of;
  using typename Base::Ahead;
  using typename Base::T;

  Place place_of(int64_t tile) const {
    const int64_t rows = plan.row_tiles ? p.in_h : p.in_h + 1;
    const int64_t row = plan.row_tiles ? tile / plan.row_tiles : tile * kTile / in_row;
    const int64_t x = plan.row_tiles ? tile % plan.row_tiles * kTile : tile * kTile % in_row;
    return {row / rows, row % rows, x};
  }
  int64_t position_of(int64_t tile) const {
    if (plan.row_tiles == 0) return tile * kTile;
    const Place at = place_of(tile);
    return (at.n * (p.in_h + 1) + at.y) * in_row + at.x;
  }

  template <bool kStore, bool kHeads>
  PYFACE_INLINE void finish_position(int64_t group, const Place& at, const float* sums, float noise, T* y,
                                     T* values, float* heads) const {
    const int64_t side = at.n * sides.channels + group * kOut;
    const float* bias = sides.bias + group * kOut;
    const V16 low =
        rectify(load16(sums) * load16_unaligned(sides.demod + side) + (load16_unaligned(bias) + noise));
    const V16 high = rectify(load16(sums + 16) * load16_unaligned(sides.demod + side + 16) +
                             (load16_unaligned(bias + 16) + noise));
    if (kStore) {
      Products::store(y, out_plane, low * load16_unaligned(sides.style + side),
                      high * load16_unaligned(sides.style + side + 16));
    }
    if (kHeads && values != nullptr) {
      Products::store(values, Products::kValues, low, high);
    } else if (kHeads) {
      const float* weight =
          static_cast<const float*>(p.heads) + at.n * p.head_channels * sides.channels + group * kOut;
      for (int64_t k = 0; k < p.head_channels; ++k, weight += sides.channels) {
        heads[k] += sum16(low * load16_unaligned(weight) + high * load16_unaligned(weight + 16));
      }
    }
  }

  // Two tiles whose products are there and that wait to be finished. heads: their sums [position 16][16].
  struct Pending {
    int count = 0;  // of tiles
    int64_t group = 0, tile = 0;
    const float* sums = nullptr;
    float* heads = nullptr;
    T* values = nullptr;  // [position 32][32], for the heads
    Place at[2];
    const float* noise[2];
    T* y[2];
  };

  template <bool kStore>
  Pending pending_of(int64_t group, int64_t tile, int count, const float* sums, float* heads,
                     T* values) const {
    Pending made;
    made.count = count;
    made.group = group;
    made.tile = tile;
    made.sums = sums;
    made.heads = heads;
    made.values = values;
    for (int i = 0; i < count; ++i) {
      made.at[i] = place_of(tile + i);
      if (!plan.row_tiles) continue;
      made.noise[i] = sides.noise_row(made.at[i].n, made.at[i].y);
      made.y[i] = kStore ? out_at(group, made.at[i]) : nullptr;
    }
    return made;
  }

  // Position `i` of 32 where rows are whole tiles.
  template <bool kStore, bool kHeads>
  PYFACE_INLINE void finish_one(const Pending& of, int64_t i) const {
    const int64_t tile = i / kTile, in_tile = i % kTile;
    const float* noise = of.noise[tile];
    finish_position<kStore, kHeads>(
        of.group, of.at[tile], of.sums + i * kOut,
        noise == nullptr ? 0.f : noise[of.at[tile].x + in_tile] * sides.noise_scale,
        kStore ? of.y[tile] + in_tile * kBlock : nullptr,
        kHeads && Products::kTiledHeads ? of.values + i * kOut : nullptr,
        kHeads ? of.heads + i * kStyledHeadChannels : nullptr);
  }

  // The heads of finished tiles.
  void finish_heads(const Pending& of, const T* head_weights) const {
    if constexpr (Products::kTiledHeads) {
      constexpr int64_t kWeights = kOut * kStyledHeadChannels * kParts;
      for (int i = 0; i < of.count; ++i) {
        Products::add_heads(of.values + i * kTile * kOut,
                            head_weights + (of.at[i].n * out_groups + of.group) * kWeights,
                            of.heads + i * kTile * kStyledHeadChannels);
      }
    } else {
      (void)of, (void)head_weights;
    }
  }

  // Both tiles where tiles run on over rows.
  template <bool kStore, bool kHeads>
  void finish_running(const Pending& of) const {
    Place at = of.at[0];
    for (int64_t i = 0; i < of.count * kTile && at.n < p.n; ++i) {
      if (at.x < p.in_w && at.y < p.in_h) {
        const float* noise = sides.noise_row(at.n, at.y);
        finish_position<kStore, kHeads>(of.group, at, of.sums + i * kOut,
                                        noise == nullptr ? 0.f : noise[at.x] * sides.noise_scale,
                                        kStore ? out_at(of.group, at) : nullptr, nullptr,
                                        kHeads ? of.heads + i * kStyledHeadChannels : nullptr);
      }
      advance(at);
    }
  }

  // To the next position of running tiles.
  void advance(Place& at) const {
    if (++at.x < in_row) return;
    at.x = 0;
    if (++at.y <= p.in_h) return;
    at.y = 0;
    ++at.n;
  }

  // Adds up to four heads of a tile to as many planes of `area`.
  void add_few(float* image, int64_t area, const float* heads) const {
    typedef float V4 __attribute__((vector_size(16), may_alias, aligned(4)));
    typedef int32_t I4 __attribute__((vector_size(16)));
    const auto row = [&](int64_t i) { return *reinterpret_cast<const V4*>(heads + i * kStyledHeadChannels); };
    for (int64_t i = 0; i < kTile; i += 4) {
      const V4 a = row(i), b = row(i + 1), c = row(i + 2), d = row(i + 3);
      const V4 ab = __builtin_shuffle(a, b, I4{0, 4, 1, 5}), cd = __builtin_shuffle(c, d, I4{0, 4, 1, 5});
      const V4 ab2 = __builtin_shuffle(a, b, I4{2, 6, 3, 7}), cd2 = __builtin_shuffle(c, d, I4{2, 6, 3, 7});
      const V4 columns[4] = {
          __builtin_shuffle(ab, cd, I4{0, 1, 4, 5}), __builtin_shuffle(ab, cd, I4{2, 3, 6, 7}),
          __builtin_shuffle(ab2, cd2, I4{0, 1, 4, 5}), __builtin_shuffle(ab2, cd2, I4{2, 3, 6, 7})};
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k) {
        if (k < p.head_channels) *reinterpret_cast<V4*>(image + k * area + i) += columns[k];
      }
    }
  }

  // Adds the heads of tiles [begin, end) to the images.
  void add_to_images(int64_t begin, int64_t end, const float* heads) const {
    float* image = static_cast<float*>(p.image);
    const int64_t area = p.in_h * p.in_w;
    for (int64_t tile = begin; tile < end; ++tile, heads += kTile * kStyledHeadChannels) {
      Place at = place_of(tile);
      if (plan.row_tiles && p.head_channels <= 4) {
        add_few(image + at.n * p.head_channels * area + at.y * p.in_w + at.x, area, heads);
        continue;
      }
      for (int64_t i = 0; i < kTile && at.n < p.n; ++i) {
        if (at.x < p.in_w && at.y < p.in_h) {
          float* pixel = image + at.n * p.head_channels * area + at.y * p.in_w + at.x;
          for (int64_t k = 0; k < p.head_channels; ++k) pixel[k * area] += heads[i * kStyledHeadChannels + k];
        }
        advance(at);
      }
    }
  }

  // The part of the workspace that belongs to a worker.
  char* own(int worker) const {
    return static_cast<char*>(p.workspace) + plan.shared_bytes + worker * plan.worker_bytes;
  }
  float* heads_of(int worker) const {
    return reinterpret_cast<float*>(own(worker) + plan.sums_bytes + plan.values_bytes);
  }

  // Pairs [begin, end) of tiles, output channels of the groups [first_group, last_group). Where rows are
  // whole tiles, one pair is finished during the products of the next one.
  template <bool kStore, bool kHeads>
  void range(int worker, int64_t begin, int64_t end, int64_t first_group, int64_t last_group) const {
    [[maybe_unused]] const typename Products::Session session;
    float* sums = reinterpret_cast<float*>(own(worker));
    T* values = reinterpret_cast<T*>(own(worker) + plan.sums_bytes);
    const T* head_weights = static_cast<const T*>(p.workspace);
    // What has just been stored cannot be read at once: sums wait for two steps, values for another pair.
    constexpr int64_t kDelay = 2;
    const int64_t steps = 9 * this->tap_steps(),
                  at_once = (2 * kTile + steps - kDelay - 1) / (steps - kDelay);
    Pending waiting, headless;
    Ahead ahead{};
    int turn = 0;
    const auto finish = [&](int64_t step) {
      ahead.step();
      const int64_t start = (step - kDelay) * at_once, all = waiting.count * kTile;
      if (start < 0) return;
      for (int64_t i = start; i < start + at_once && i < all; ++i) finish_one<kStore, kHeads>(waiting, i);
    };
    const auto finish_headless = [&] {
      if (kHeads && headless.count > 0) finish_heads(headless, head_weights);
      headless.count = 0;
    };
    const auto drain = [&] {
      if (plan.row_tiles) {
        ahead.lines = 0;
        for (int64_t step = 0; step < steps; ++step) finish(step);
        finish_headless();
        headless = waiting;
        finish_headless();
      } else {
        finish_running<kStore, kHeads>(waiting);
      }
      waiting.count = 0;
    };
    for (int64_t first = begin; first < end; first += plan.chunk_pairs) {
      const int64_t last = first + plan.chunk_pairs < end ? first + plan.chunk_pairs : end;
      const int64_t first_tile = 2 * first, last_tile = 2 * last < plan.tiles ? 2 * last : plan.tiles;
      // Where threads share the groups, the sums of all tiles are kept, and were cleared before.
      float* heads = heads_of(worker) + (plan.split_groups ? first_tile * kTile * kStyledHeadChannels : 0);
      if (kHeads && !plan.split_groups) {
        __builtin_memset(heads, 0, (last_tile - first_tile) * kTile * kStyledHeadChannels * 4);
      }
      for (int64_t group = first_group; group < last_group; ++group) {
        const T* weight = weight_of(group, 0);
        ahead = this->ahead_of(group, first_group, last_group);
        for (int64_t tile = first_tile; tile < last_tile; tile += 2) {
          const int count = tile + 1 < last_tile ? 2 : 1;
          const int64_t next = tile + 3 < last_tile ? tile + 2 : first_tile;
          const T* a[2] = {in_at(position_of(tile)), in_at(position_of(tile + 1))};
          const T* next_a[2] = {in_at(position_of(next)), in_at(position_of(next + 1))};
          float* now = sums + turn * 2 * kTile * kOut;
          float* c[2] = {now, now + kTile * kOut};
          if (count == 2) {
            Products::template multiply<9, 2>(a, next_a, in_plane, offsets, weight, in_blocks, c, kOut,
                                              finish);
          } else {
            Products::template multiply<9, 1>(a, next_a, in_plane, offsets, weight, in_blocks, c, kOut,
                                              finish);
          }
          finish_headless();
          headless = waiting;
          waiting = pending_of<kStore>(group, tile, count, now,
                                       heads + (tile - first_tile) * kTile * kStyledHeadChannels,
                                       values + turn * 2 * kTile * kOut * kParts);
          turn ^= 1;
          if (!plan.row_tiles) {
            headless.count = 0;
            drain();
          }
        }
      }
      if (kHeads && !plan.split_groups) {
        if (waiting.count > 0) drain();
        add_to_images(first_tile, last_tile, heads);
      }
    }
    if (waiting.count > 0) drain();
  }

  // Head weights [n][group][part][in 32][16] as tiles, in front of the workspace.
  void pack_heads() const {
    if constexpr (Products::kTiledHeads) {
      T* to = static_cast<T*>(p.workspace);
      const float* from = static_cast<const float*>(p.heads);
      constexpr int64_t kWeights = kOut * kStyledHeadChannels;
      for (int64_t n = 0; n < p.n; ++n) {
        for (int64_t group = 0; group < out_groups; ++group, to += kWeights * kParts) {
          for (int64_t in = 0; in < kOut; ++in) {
            for (int64_t k = 0; k < kStyledHeadChannels; ++k) {
              const float* row = from + (n * p.head_channels + k) * sides.channels + group * kOut;
              Products::store_weight(to + (in / 2) * 32 + k * 2 + in % 2, kWeights,
                                     k < p.head_channels ? row[in] : 0.f);
            }
          }
        }
      }
    }
  }

  // `self` is this layer, as the class whose range() does the work.
  template <class Self>
  void run(const Self& self) const {
    const bool has_heads = p.heads != nullptr;
    if (has_heads && plan.row_tiles) pack_heads();
    image_pass(p, plan.workers, false);
    const int64_t head_floats = plan.tiles * kTile * kStyledHeadChannels;
    if (has_heads && plan.split_groups) {
      for (int worker = 0; worker < plan.workers; ++worker) {
        __builtin_memset(heads_of(worker), 0, head_floats * sizeof(float));
      }
    }
    this->share((plan.tiles + 1) / 2,
                [&](int worker, int64_t begin, int64_t end, int64_t first_group, int64_t last_group) {
                  if (p.y != nullptr && has_heads) {
                    self.template range<true, true>(worker, begin, end, first_group, last_group);
                  } else if (p.y != nullptr) {
                    self.template range<true, false>(worker, begin, end, first_group, last_group);
                  } else {
                    self.template range<false, true>(worker, begin, end, first_group, last_group);
                  }
                });
    if (has_heads && plan.split_groups) {
      for (int worker = 0; worker < plan.workers; ++worker) add_to_images(0, plan.tiles, heads_of(worker));
    }
    image_pass(p, plan.workers, true);
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
