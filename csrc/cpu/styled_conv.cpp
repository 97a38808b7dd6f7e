// A synthesis layer in one call: products of tiles, each followed by everything else that happens to it.
#include "pyface/styled_conv.h"

#include "cpu/styled_conv_amx.h"
#include "cpu/styled_conv_float.h"
#include "cpu/styled_conv_plan.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

// ---- y with its zeros: the row above, the column left, and what lies below and right

template <class Products>
void clear_borders(const StyledConvParams& p) {
  using T = typename Products::T;
  const int64_t h = p.out_h(), w = p.out_w(), plane = blocked_positions(p.y_batch, h, w) * Products::kBlock;
  const int64_t row = (w + 1) * Products::kBlock;
  for (int64_t block = 0; block < padded_channels(p.out_channels) / Products::kBlock; ++block) {
    T* at = static_cast<T*>(p.y) + block * plane + p.y_first * (h + 1) * row;
    for (int64_t r = 0; r <= p.n * (h + 1); ++r) {
      __builtin_memset(at + r * row, 0, sizeof(T) * (r % (h + 1) == 0 ? row : Products::kBlock));
    }
    __builtin_memset(at + (p.n * (h + 1) + 1) * row, 0, sizeof(T) * Products::kBlock);
  }
}

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

  // What follows the products of one tile; heads: sums [position 16][16] of the tile, or null.
  template <bool kStore, bool kHeads>
  void finish_tile(int64_t group, int64_t tile, const float* sums, float* heads, const T* head_weights,
                   T* values) const {
    Place at = place_of(tile);
    if (plan.row_tiles) {
      const float* noise = sides.noise_row(at.n, at.y);
      T* y = kStore ? out_at(group, at) : nullptr;
      for (int64_t i = 0; i < kTile; ++i) {
        T* value = kHeads && Products::kTiledHeads ? values + i * kOut : nullptr;
        finish_position<kStore, kHeads>(group, at, sums + i * kOut, noise == nullptr ? 0.f : noise[at.x + i],
                                        kStore ? y + i * kBlock : nullptr, value,
                                        kHeads ? heads + i * kStyledHeadChannels : nullptr);
      }
      if constexpr (kHeads && Products::kTiledHeads) {
        Products::add_heads(values, head_weights + (at.n * out_groups + group) * kOut * kStyledHeadChannels,
                            heads);
      }
      return;
    }
    (void)head_weights;
    for (int64_t i = 0; i < kTile && at.n < p.n; ++i) {
      if (at.x < p.in_w && at.y < p.in_h) {
        const float* noise = sides.noise_row(at.n, at.y);
        finish_position<kStore, kHeads>(group, at, sums + i * kOut, noise == nullptr ? 0.f : noise[at.x],
                                        kStore ? out_at(group, at) : nullptr, nullptr,
                                        kHeads ? heads + i * kStyledHeadChannels : nullptr);
      }
      if (++at.x == in_row) {
        at.x = 0;
        if (++at.y == p.in_h + 1) {
          at.y = 0;
          ++at.n;
        }
      }
    }
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
        if (++at.x == in_row) {
          at.x = 0;
          if (++at.y == p.in_h + 1) {
            at.y = 0;
            ++at.n;
          }
        }
      }
    }
  }

  template <bool kStore, bool kHeads>
  void plain_range(int worker, int64_t begin, int64_t end) const {
    [[maybe_unused]] const typename Products::Session session;
    char* own = static_cast<char*>(p.workspace) + plan.shared_bytes + worker * plan.worker_bytes;
    float* sums = reinterpret_cast<float*>(own);
    T* values = reinterpret_cast<T*>(own + plan.sums_bytes);
    float* heads = reinterpret_cast<float*>(own + plan.sums_bytes + plan.values_bytes);
    const T* head_weights = static_cast<const T*>(p.workspace);
    for (int64_t first = begin; first < end; first += plan.chunk_pairs) {
      const int64_t last = first + plan.chunk_pairs < end ? first + plan.chunk_pairs : end;
      const int64_t first_tile = 2 * first, last_tile = 2 * last < plan.tiles ? 2 * last : plan.tiles;
      if (kHeads) __builtin_memset(heads, 0, (last_tile - first_tile) * kTile * kStyledHeadChannels * 4);
      for (int64_t group = 0; group < out_groups; ++group) {
        const T* weight = weight_of(group, 0);
        for (int64_t tile = first_tile; tile < last_tile; tile += 2) {
          const int count = tile + 1 < last_tile ? 2 : 1;
          const T* a[2] = {in_at(position_of(tile)), count == 2 ? in_at(position_of(tile + 1)) : nullptr};
          float* c[2] = {sums, sums + kTile * kOut};
          if (count == 2) {
            Products::template multiply<9, 2>(a, in_plane, offsets, weight, in_blocks, c, kOut);
          } else {
            Products::template multiply<9, 1>(a, in_plane, offsets, weight, in_blocks, c, kOut);
          }
          for (int i = 0; i < count; ++i) {
            finish_tile<kStore, kHeads>(group, tile + i, c[i],
                                        heads + (tile + i - first_tile) * kTile * kStyledHeadChannels,
                                        head_weights, values);
          }
        }
      }
      if (kHeads) add_to_images(first_tile, last_tile, heads);
    }
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

  struct Rows {
    float *even, *odd,
        *before;    // of the rows at hand; before: odd of the last but one, even and odd of the last
    int64_t first;  // row that even and odd begin with
  };
  PYFACE_INLINE const float* even_row(const Rows& rows, int64_t row) const {
    return row >= rows.first ? rows.even + (row - rows.first) * plan.double_row
                             : rows.before + plan.double_row;
  }
  PYFACE_INLINE const float* odd_row(const Rows& rows, int64_t row) const {
    if (row >= rows.first) return rows.odd + (row - rows.first) * plan.double_row;
    return rows.before + (row == rows.first - 1 ? 2 : 0) * plan.double_row;
  }

  template <int kTiles>
  void four_phases(int64_t group, int64_t position, int64_t local, const Rows& rows) const {
    const T* a[2] = {in_at(position), in_at(position + kTile)};
    const int64_t stride = 2 * kOut;
    float* even = rows.even + local * stride;
    float* odd = rows.odd + local * stride;
    float* ee[2] = {even, even + kTile * stride};
    float* eo[2] = {even + kOut, even + kTile * stride + kOut};
    float* oe[2] = {odd, odd + kTile * stride};
    float* oo[2] = {odd + kOut, odd + kTile * stride + kOut};
    Products::template multiply<4, kTiles>(a, in_plane, offsets, weight_of(group, 0), in_blocks, ee, stride);
    Products::template multiply<2, kTiles>(a, in_plane, offsets + 4, weight_of(group, 4), in_blocks, eo,
                                           stride);
    Products::template multiply<2, kTiles>(a, in_plane, offsets + 6, weight_of(group, 6), in_blocks, oe,
                                           stride);
    Products::template multiply<1, kTiles>(a, in_plane, offsets + 8, weight_of(group, 8), in_blocks, oo,
                                           stride);
  }

  // Rows [first, last) of one group; those from `emit` on are finished.
  void up_rows(int64_t group, int64_t first, int64_t last, int64_t emit, Rows& rows) const {
    rows.first = first;
    const int64_t begin = first * in_row, count = (last - first) * in_row;
    for (int64_t local = 0; local < count; local += 2 * kTile) {
      if (count - local > kTile) {
        four_phases<2>(group, begin + local, local, rows);
      } else {
        four_phases<1>(group, begin + local, local, rows);
      }
    }
    for (int64_t row = first < emit ? emit : first; row < last; ++row) {
      const int64_t n = row / (p.in_h + 1), i = row % (p.in_h + 1);
      if (i == 0) continue;
      const int64_t side = n * sides.channels + group * kOut, y = 2 * i - 2;
      const FilteredRows<T> f = {{odd_row(rows, row - 2), even_row(rows, row - 1), odd_row(rows, row - 1),
                                  even_row(rows, row), odd_row(rows, row)},
                                 sides.demod + side,
                                 sides.bias + group * kOut,
                                 sides.style + side,
                                 {sides.noise_row(n, y), sides.noise_row(n, y + 1)},
                                 {out_at(group, {n, y, 0}), out_at(group, {n, y + 1, 0})},
                                 p.out_w(),
                                 out_plane};
      filter_rows(f, rectify);
    }
    const size_t bytes = plan.double_row * sizeof(float);
    __builtin_memmove(rows.before, odd_row(rows, last - 2), bytes);
    __builtin_memcpy(rows.before + plan.double_row, even_row(rows, last - 1), bytes);
    __builtin_memcpy(rows.before + 2 * plan.double_row, odd_row(rows, last - 1), bytes);
  }

  void up_range(int worker, int64_t begin, int64_t end) const {
    [[maybe_unused]] const typename Products::Session session;
    char* own = static_cast<char*>(p.workspace) + plan.shared_bytes + worker * plan.worker_bytes;
    float* even = reinterpret_cast<float*>(own);
    float* odd = even + plan.rows_floats;
    float* before = odd + plan.rows_floats;
    const int64_t start = begin < 2 ? 0 : begin - 2, state = 3 * plan.double_row;
    const auto piece = [&](int64_t group, int64_t first, float* kept) {
      const int64_t last = first + plan.chunk_rows < end ? first + plan.chunk_rows : end;
      Rows rows{even, odd, kept, first};
      if (first == start) __builtin_memset(kept, 0, state * sizeof(float));
      up_rows(group, first, last, begin, rows);
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

// ---- packing

template <class Products>
void pack_weight_for(const PackStyledConvParams& p) {
  using T = typename Products::T;
  const float* from = static_cast<const float*>(p.weight);
  const int64_t block = Products::kBlock, in_blocks = padded_channels(p.in_channels) / block;
  T* to = static_cast<T*>(p.packed);
  for (int64_t group = 0; group < padded_channels(p.out_channels) / kOut; ++group) {
    for (int first = 0, taps; first < 9; first += taps) {
      taps = styled_phase_taps(p.up, first);
      for (int64_t in_block = 0; in_block < in_blocks; ++in_block) {
        for (int tap = first; tap < first + taps; ++tap, to += kOut * block) {
          const StyledTap t = styled_tap(p.up, tap);
          for (int64_t o = 0; o < kOut; ++o) {
            for (int64_t i = 0; i < block; ++i) {
              const int64_t out = group * kOut + o, in = in_block * block + i;
              const bool inside = out < p.out_channels && in < p.in_channels;
              const float v = inside ? from[(out * p.in_channels + in) * 9 + t.kernel_y * 3 + t.kernel_x] : 0;
              to[Products::weight_at(i, o)] = store<T>(v);
            }
          }
        }
      }
    }
  }
}

template <class T>
void block_activations_as(const BlockActivationsParams& p) {
  const int64_t block = 64 / sizeof(T), plane = blocked_positions(p.n, p.h, p.w) * block;
  const int64_t channels = padded_channels(p.c), area = p.h * p.w;
  const float *x = static_cast<const float*>(p.x), *scale = static_cast<const float*>(p.scale);
  T* y = static_cast<T*>(p.y);
  __builtin_memset(p.y, 0, blocked_bytes(p.dtype, p.n, p.c, p.h, p.w));
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t c = 0; c < p.c; ++c) {
      const float* from = x + ((p.shared ? 0 : n) * p.c + c) * area;
      const float s = scale[n * channels + c];
      T* to = y + c / block * plane + ((n * (p.h + 1) + 1) * (p.w + 1) + 1) * block + c % block;
      for (int64_t i = 0; i < p.h; ++i) {
        for (int64_t j = 0; j < p.w; ++j) to[(i * (p.w + 1) + j) * block] = store<T>(from[i * p.w + j] * s);
      }
    }
  }
}

#if defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

void check_bfloat16(const char* op, DType dtype) {
  PYFACE_CHECK(dtype == DType::kF32 || kHasTiles, op, "dtype", "bfloat16 without AMX", "float32 on this CPU");
}

}  // namespace

void pack_styled_conv(const PackStyledConvParams& p, int) {
  check_bfloat16("pack_styled_conv", p.dtype);
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
  check_bfloat16("styled_conv", p.dtype);
  if (p.dtype == DType::kF32) return Layer<FloatProducts>(p, threads).run();
#if defined(__AMX_BF16__)
  Layer<AmxProducts>(p, threads).run();
#endif
}

}  // namespace pyface::PYFACE_ISA_NS
