// A synthesis layer in one call: products of tiles, each followed by everything else that happens to it.
#include "pyface/styled_conv.h"

#include "cpu/styled_conv_amx.h"
#include "cpu/styled_conv_float.h"
#include "cpu/styled_conv_pack.h"
#include "cpu/styled_conv_plan.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

// ---- the parts of a launch that all threads read

template <class Products>
struct Layer {
  using T = typename Products::T;
  static constexpr int64_t kBlock = Products::kBlock;

  const StyledConvParams& p;
  const StyledConvPlan plan;
  const Sides sides;
  const Rectify rectify;
  const int64_t in_blocks, out_groups, in_plane, out_plane, in_row, in_first, out_row, out_first;
  int64_t offsets[9];

  explicit Layer(const StyledConvParams& params, int threads)
      : p(params),
        plan(params, threads),
        sides(params),
        rectify(params.alpha, params.clamp),
        in_blocks(padded_channels(params.in_channels) / kBlock),
        out_groups(padded_channels(params.out_channels) / kOut),
        in_plane(blocked_positions(params.x_batch, params.in_h, params.in_w) * kBlock),
        out_plane(blocked_positions(params.y_batch, params.out_h(), params.out_w()) * kBlock),
        in_row(params.in_w + 1),
        in_first((params.x_first * (params.in_h + 1) + 1) * (params.in_w + 1) + 1),
        out_row(params.out_w() + 1),
        out_first((params.y_first * (params.out_h() + 1) + 1) * (params.out_w() + 1) + 1) {
    for (int tap = 0; tap < 9; ++tap) {
      const StyledTap t = styled_tap(p.up, tap);
      offsets[tap] = (t.dy * in_row + t.dx) * kBlock;
    }
  }

  const T* in_at(int64_t position) const {
    return static_cast<const T*>(p.x) + (in_first + position) * kBlock;
  }
  T* out_at(int64_t group, const Place& at) const {
    const int64_t position = out_first + (at.n * (p.out_h() + 1) + at.y) * out_row + at.x;
    return static_cast<T*>(p.y) + group * (kOut / kBlock) * out_plane + position * kBlock;
  }
  const T* weight_of(int64_t group, int first_tap) const {
    const int64_t tap_elements = kOut * kBlock;
    return static_cast<const T*>(p.weight) + (group * 9 + first_tap) * in_blocks * tap_elements;
  }

  // ---- up = 1

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
      store32(y, out_plane, low * load16_unaligned(sides.style + side),
              high * load16_unaligned(sides.style + side + 16));
    }
    if (kHeads && values != nullptr) {
      store32(values, 0, low, high);
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
    finish_position<kStore, kHeads>(of.group, of.at[tile], of.sums + i * kOut,
                                    noise == nullptr ? 0.f : noise[of.at[tile].x + in_tile],
                                    kStore ? of.y[tile] + in_tile * kBlock : nullptr,
                                    kHeads && Products::kTiledHeads ? of.values + i * kOut : nullptr,
                                    kHeads ? of.heads + i * kStyledHeadChannels : nullptr);
  }

  // The heads of finished tiles.
  void finish_heads(const Pending& of, const T* head_weights) const {
    if constexpr (Products::kTiledHeads) {
      constexpr int64_t kWeights = kOut * kStyledHeadChannels;
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
                                        noise == nullptr ? 0.f : noise[at.x],
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

  // Adds the heads of tiles [begin, end) to the images.
  void add_to_images(int64_t begin, int64_t end, const float* heads) const {
    float* rgb = static_cast<float*>(p.rgb);
    const int64_t area = p.in_h * p.in_w;
    for (int64_t tile = begin; tile < end; ++tile, heads += kTile * kStyledHeadChannels) {
      Place at = place_of(tile);
      for (int64_t i = 0; i < kTile && at.n < p.n; ++i) {
        if (at.x < p.in_w && at.y < p.in_h) {
          float* pixel = rgb + at.n * p.head_channels * area + at.y * p.in_w + at.x;
          for (int64_t k = 0; k < p.head_channels; ++k) pixel[k * area] += heads[i * kStyledHeadChannels + k];
        }
        advance(at);
      }
    }
  }

  // Pairs [begin, end) of tiles. Where rows are whole tiles, one pair is finished during the products of the
  // next one.
  template <bool kStore, bool kHeads>
  void plain_range(int worker, int64_t begin, int64_t end) const {
    [[maybe_unused]] const typename Products::Session session;
    char* own = static_cast<char*>(p.workspace) + plan.shared_bytes + worker * plan.worker_bytes;
    float* sums = reinterpret_cast<float*>(own);
    T* values = reinterpret_cast<T*>(own + plan.sums_bytes);
    float* heads = reinterpret_cast<float*>(own + plan.sums_bytes + plan.values_bytes);
    const T* head_weights = static_cast<const T*>(p.workspace);
    // What has just been stored cannot be read at once: sums wait for two steps, values for another pair.
    constexpr int64_t kDelay = 2;
    const int64_t steps = 9 * in_blocks, at_once = (2 * kTile + steps - kDelay - 1) / (steps - kDelay);
    Pending waiting, headless;
    int turn = 0;
    const auto finish = [&](int64_t step) {
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
      if (kHeads) __builtin_memset(heads, 0, (last_tile - first_tile) * kTile * kStyledHeadChannels * 4);
      for (int64_t group = 0; group < out_groups; ++group) {
        const T* weight = weight_of(group, 0);
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
                                       values + turn * 2 * kTile * kOut);
          turn ^= 1;
          if (!plan.row_tiles) {
            headless.count = 0;
            drain();
          }
        }
      }
      if (kHeads) {
        if (waiting.count > 0) drain();
        add_to_images(first_tile, last_tile, heads);
      }
    }
    if (waiting.count > 0) drain();
  }

  // Head weights [n][group][in 32][16] as tiles, in front of the workspace.
  void pack_heads() const {
    if constexpr (Products::kTiledHeads) {
      T* to = static_cast<T*>(p.workspace);
      const float* from = static_cast<const float*>(p.heads);
      for (int64_t n = 0; n < p.n; ++n) {
        for (int64_t group = 0; group < out_groups; ++group, to += kOut * kStyledHeadChannels) {
          for (int64_t in = 0; in < kOut; ++in) {
            for (int64_t k = 0; k < kStyledHeadChannels; ++k) {
              const float* row = from + (n * p.head_channels + k) * sides.channels + group * kOut;
              to[(in / 2) * 32 + k * 2 + in % 2] = store<T>(k < p.head_channels ? row[in] : 0.f);
            }
          }
        }
      }
    }
  }

  void plain() const {
    if (p.heads != nullptr && plan.row_tiles) pack_heads();
    const int64_t pairs = (plan.tiles + 1) / 2;
    parallel_ranges(plan.workers, pairs, 1, [&](int worker, int64_t begin, int64_t end) {
      if (p.y != nullptr && p.heads != nullptr) {
        plain_range<true, true>(worker, begin, end);
      } else if (p.y != nullptr) {
        plain_range<true, false>(worker, begin, end);
      } else {
        plain_range<false, true>(worker, begin, end);
      }
    });
  }

  // ---- up = 2: rows of the transposed convolution, two (even, odd) for each row of in_row positions

  // Rows [first, last) of one group of output channels, and three rows of before: odd of the last but one,
  // even and odd of the last.
  struct Rows {
    float *even = nullptr, *odd = nullptr, *before = nullptr;
    int64_t group = 0, first = 0, last = 0;
  };
  const float* even_row(const Rows& rows, int64_t row) const {
    return row >= rows.first ? rows.even + (row - rows.first) * plan.double_row
                             : rows.before + plan.double_row;
  }
  const float* odd_row(const Rows& rows, int64_t row) const {
    if (row >= rows.first) return rows.odd + (row - rows.first) * plan.double_row;
    return rows.before + (row == rows.first - 1 ? 2 : 0) * plan.double_row;
  }

  // The filter over rows whose products are there, piece by piece.
  struct Filtering {
    Rows rows;
    int64_t row = 0, column = 0;  // where it goes on
    FilteredRows<T> f;
    FilterState state;
  };

  // Makes `at.row`, or the first row after it that has output, ready; false where there is none.
  bool begin_row(Filtering& at, int64_t emit) const {
    for (; at.row < at.rows.last; ++at.row) {
      const int64_t n = at.row / (p.in_h + 1), i = at.row % (p.in_h + 1);
      if (i == 0 || at.row < emit) continue;
      const int64_t side = n * sides.channels + at.rows.group * kOut, y = 2 * i - 2;
      at.f = {{odd_row(at.rows, at.row - 2), even_row(at.rows, at.row - 1), odd_row(at.rows, at.row - 1),
               even_row(at.rows, at.row), odd_row(at.rows, at.row)},
              sides.demod + side,
              sides.bias + at.rows.group * kOut,
              sides.style + side,
              {sides.noise_row(n, y), sides.noise_row(n, y + 1)},
              {out_at(at.rows.group, {n, y, 0}), out_at(at.rows.group, {n, y + 1, 0})}};
      at.state = FilterState();
      at.column = 0;
      return true;
    }
    return false;
  }

  // Filters `columns` columns; rows of before are replaced when all is done, and at.rows.last becomes 0.
  void filter_some(Filtering& at, int64_t columns, int64_t emit) const {
    const int64_t width = p.out_w() + 2;
    while (columns > 0 && at.row < at.rows.last) {
      const int64_t end = at.column + columns < width ? at.column + columns : width;
      filter_columns(at.f, at.state, at.column, end, out_plane, rectify);
      columns -= end - at.column;
      at.column = end;
      if (end < width) return;
      ++at.row;
      begin_row(at, emit);
    }
    if (at.rows.last > 0 && at.row >= at.rows.last) {
      const size_t bytes = plan.double_row * sizeof(float);
      const int64_t last = at.rows.last;
      __builtin_memmove(at.rows.before, odd_row(at.rows, last - 2), bytes);
      __builtin_memcpy(at.rows.before + plan.double_row, even_row(at.rows, last - 1), bytes);
      __builtin_memcpy(at.rows.before + 2 * plan.double_row, odd_row(at.rows, last - 1), bytes);
      at.rows.last = 0;
    }
  }

  template <int kTiles, class Side>
  void four_phases(const Rows& rows, int64_t local, int64_t next, const Side& side) const {
    const int64_t begin = rows.first * in_row, stride = 2 * kOut;
    const T* a[2] = {in_at(begin + local), in_at(begin + local + kTile)};
    const T* next_a[2] = {in_at(begin + next), in_at(begin + next + kTile)};
    float* even = rows.even + local * stride;
    float* odd = rows.odd + local * stride;
    float* ee[2] = {even, even + kTile * stride};
    float* eo[2] = {even + kOut, even + kTile * stride + kOut};
    float* oe[2] = {odd, odd + kTile * stride};
    float* oo[2] = {odd + kOut, odd + kTile * stride + kOut};
    const T* w = weight_of(rows.group, 0);
    const int64_t tap = in_blocks * kOut * kBlock;
    Products::template multiply<4, kTiles>(a, next_a, in_plane, offsets, w, in_blocks, ee, stride, side);
    Products::template multiply<2, kTiles>(a, next_a, in_plane, offsets + 4, w + 4 * tap, in_blocks, eo,
                                           stride, side);
    Products::template multiply<2, kTiles>(a, next_a, in_plane, offsets + 6, w + 6 * tap, in_blocks, oe,
                                           stride, side);
    Products::template multiply<1, kTiles>(a, next_a, in_plane, offsets + 8, w + 8 * tap, in_blocks, oo,
                                           stride, side);
  }

  // Rows of in_row positions [begin, end). The filter goes over some rows during the products of the next
  // ones.
  void up_range(int worker, int64_t begin, int64_t end) const {
    [[maybe_unused]] const typename Products::Session session;
    float* own = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + plan.shared_bytes +
                                          worker * plan.worker_bytes);
    float* before = own + 4 * plan.rows_floats;
    const int64_t start = begin < 2 ? 0 : begin - 2, state = 3 * plan.double_row;
    __builtin_memset(before, 0, (plan.groups_inside ? out_groups : 1) * state * sizeof(float));
    Filtering waiting;
    int turn = 0;
    constexpr int64_t kPiece = 4;  // columns at a time: fewer would move the state too often
    const auto piece = [&](int64_t group, int64_t first, float* kept) {
      const int64_t last = first + plan.chunk_rows < end ? first + plan.chunk_rows : end;
      const Rows rows{own + turn * 2 * plan.rows_floats,
                      own + (turn * 2 + 1) * plan.rows_floats,
                      kept,
                      group,
                      first,
                      last};
      turn ^= 1;
      const int64_t count = (last - first) * in_row;
      const int64_t columns = (waiting.rows.last - waiting.row) * (p.out_w() + 2);
      const int64_t steps = (count + 2 * kTile - 1) / (2 * kTile) * 9 * in_blocks;
      const int64_t rate = columns > 0 ? (columns * 256 + steps - 1) / steps : 0;  // columns / 256 a step
      int64_t due = 0;
      const auto filter = [&](int64_t) {
        due += rate;
        if (due < kPiece * 256) return;
        const int64_t whole = due / 256;
        due -= whole * 256;
        filter_some(waiting, whole, begin);
      };
      for (int64_t local = 0; local < count; local += 2 * kTile) {
        const int64_t next = local + 3 * kTile < count ? local + 2 * kTile : 0;
        if (count - local > kTile) {
          four_phases<2>(rows, local, next, filter);
        } else {
          four_phases<1>(rows, local, next, filter);
        }
      }
      filter_some(waiting, columns, begin);
      if (!plan.groups_inside && first == start) __builtin_memset(kept, 0, state * sizeof(float));
      waiting.rows = rows;
      waiting.row = first;
      begin_row(waiting, begin);
    };
    if (plan.groups_inside) {
      for (int64_t first = start; first < end; first += plan.chunk_rows) {
        for (int64_t group = 0; group < out_groups; ++group) piece(group, first, before + group * state);
      }
    } else {
      for (int64_t group = 0; group < out_groups; ++group) {
        for (int64_t first = start; first < end; first += plan.chunk_rows) piece(group, first, before);
      }
    }
    filter_some(waiting, (end - start) * (p.out_w() + 2), begin);
  }

  void up() const {
    parallel_ranges(plan.workers, p.n * (p.in_h + 1), 1,
                    [&](int worker, int64_t begin, int64_t end) { up_range(worker, begin, end); });
  }

  void run() const {
    if (p.y != nullptr) clear_borders<Products>(p);
    if (p.up == 1) {
      plain();
    } else {
      up();
    }
  }
};

}  // namespace

void pack_styled_conv(const PackStyledConvParams& p, int) {
  if (p.dtype == DType::kF32) return pack_weight_for<FloatProducts>(p);
#if defined(__AMX_BF16__)
  pack_weight_for<AmxProducts>(p);
#endif
}

void block_activations(const BlockActivationsParams& p, int) {
  if (p.dtype == DType::kF32) {
    block_activations_as<float>(p);
  } else {
    block_activations_as<bf16>(p);
  }
}

void styled_conv(const StyledConvParams& p, int threads) {
  if (p.dtype == DType::kF32) return Layer<FloatProducts>(p, threads).run();
#if defined(__AMX_BF16__)
  Layer<AmxProducts>(p, threads).run();
#endif
}

}  // namespace pyface::PYFACE_ISA_NS
