// upfirdn2d on the CPU. Zero insertion is never carried out: an output position meets only the taps of its
// phase. A separable (or rank-1) filter runs one vertical pass per output row into a padded row buffer, then
// a horizontal pass over that buffer; any other filter runs a horizontal pass per filter row and sums.
#include "pyface/upfirdn2d.h"

#include "cpu/parallel.h"
#include "cpu/scalar.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

constexpr int kChunk = 4;  // taps a loop applies at once; longer filters add up in several passes
// A row is cut into tiles whose buffer stays in the second-level cache, but of at least this many positions,
// because neighbouring tiles filter the columns of their overlap twice.
constexpr int64_t kTileElements = 32768, kMinPositions = 16;
// Short rows are filtered in batches, all columns first: reading a row back at once would wait for its
// stores.
constexpr int64_t kBatchElements = 4096, kMaxBatch = 32;

int64_t greatest_common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// One axis. Output o = q + period * i reads `count(q)` consecutive sources from source(q) + step * i on, with
// the weights taps[first_tap(q)], taps[first_tap(q) + up], ...
struct Axis {
  int64_t in, out, up, down, pad, length, period, step;
  Axis(int64_t in_size, int64_t out_size, int up_factor, int down_factor, int pad0, int taps)
      : in(in_size), out(out_size), up(up_factor), down(down_factor), pad(pad0), length(taps) {
    const int64_t common = greatest_common_divisor(up, down);
    period = up / common;
    step = down / common;
  }
  int64_t first_tap(int64_t o) const {
    const int64_t base = o * down - pad;
    return ((-base) % up + up) % up;
  }
  int64_t source(int64_t o) const { return (o * down - pad + first_tap(o)) / up; }
  int64_t count(int64_t o) const {
    const int64_t first = first_tap(o);
    return first < length ? (length - first + up - 1) / up : 0;
  }
  int64_t positions(int64_t q) const { return q < out ? (out - q + period - 1) / period : 0; }
};

// sum_j w[j] * x[j * stride]
template <int kTaps, class F, class T>
PYFACE_INLINE F dot(const F* w, const T* x, int64_t stride) {
  if constexpr (kTaps == 1) {
    return w[0] * load(x[0]);
  } else {
    return dot<kTaps - 1>(w, x, stride) + w[kTaps - 1] * load(x[(kTaps - 1) * stride]);
  }
}

// Calls body(constant) with the number of taps of a chunk, 1 to kChunk.
template <int kValue>
struct Taps {
  static constexpr int value = kValue;
};
template <class Body>
PYFACE_INLINE void with_taps(int64_t count, const Body& body) {
  switch (count) {
    case 1:
      return body(Taps<1>{});
    case 2:
      return body(Taps<2>{});
    case 3:
      return body(Taps<3>{});
    default:
      return body(Taps<4>{});
  }
}

// ---- vertical: v[i] (+)= sum_j w[j] * rows[j][i]

template <bool kAdd, int kTaps, class T, class F>
void vertical_chunk(const T* const* rows, const F* weights, F* v, int64_t count) {
  const T *r0 = rows[0], *r1 = rows[kTaps > 1 ? 1 : 0], *r2 = rows[kTaps > 2 ? 2 : 0],
          *r3 = rows[kTaps > 3 ? 3 : 0];
  const F w0 = weights[0], w1 = weights[kTaps > 1 ? 1 : 0], w2 = weights[kTaps > 2 ? 2 : 0],
          w3 = weights[kTaps > 3 ? 3 : 0];
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    F sum = w0 * load(r0[i]);
    if constexpr (kTaps > 1) sum += w1 * load(r1[i]);
    if constexpr (kTaps > 2) sum += w2 * load(r2[i]);
    if constexpr (kTaps > 3) sum += w3 * load(r3[i]);
    if constexpr (kAdd) sum += v[i];
    v[i] = sum;
  }
}

// ---- horizontal: y[o] (+)= sum_j w[j] * v[source(o) + j], for the positions of one phase.
// `lanes` values stand side by side at each position: 1 for planes, the channels for channels-last tensors.

template <bool kAdd, class O, class F>
PYFACE_INLINE void put(O* y, F sum) {
  if constexpr (kAdd) sum += load(*y);
  *y = store<O>(sum);
}

template <bool kAdd, int kTaps, class O, class F>
void horizontal_chunk(const F* v, const F* weights, O* y, int64_t positions, int64_t lanes, int64_t step,
                      int64_t period) {
  F w[kTaps];
  for (int j = 0; j < kTaps; ++j) w[j] = weights[j];
  if (step == 1 && period == 1) {
    const int64_t total = positions * lanes;
    if (lanes == 1) {
#pragma GCC ivdep
      for (int64_t i = 0; i < total; ++i) put<kAdd>(y + i, dot<kTaps>(w, v + i, 1));
    } else {
#pragma GCC ivdep
      for (int64_t i = 0; i < total; ++i) put<kAdd>(y + i, dot<kTaps>(w, v + i, lanes));
    }
  } else if (lanes == 1 && step == 2 && period == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < positions; ++i) put<kAdd>(y + i, dot<kTaps>(w, v + 2 * i, 1));
  } else if (lanes == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < positions; ++i) put<kAdd>(y + period * i, dot<kTaps>(w, v + step * i, 1));
  } else {
    for (int64_t i = 0; i < positions; ++i) {
      const F* from = v + step * i * lanes;
      O* to = y + period * i * lanes;
#pragma GCC ivdep
      for (int64_t c = 0; c < lanes; ++c) put<kAdd>(to + c, dot<kTaps>(w, from + c, lanes));
    }
  }
}

// Upsampling by 2: both phases in one loop, so that their outputs interleave in registers.
template <int kTaps, class O, class F>
void horizontal_pair(const F* even, const F* odd, const F* even_weights, const F* odd_weights, O* y,
                     int64_t pairs) {
  F we[kTaps], wo[kTaps];
  for (int j = 0; j < kTaps; ++j) {
    we[j] = even_weights[j];
    wo[j] = odd_weights[j];
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < pairs; ++i) {
    y[2 * i] = store<O>(dot<kTaps>(we, even + i, 1));
    y[2 * i + 1] = store<O>(dot<kTaps>(wo, odd + i, 1));
  }
}

// ---- axes laid out for the loops

// The vertical axis: where each output row starts to read.
struct Start {
  int64_t source, first_tap, count;
};
class Vertical {
 public:
  explicit Vertical(const Axis& axis) : in(axis.in), up(axis.up), starts_(axis.out) {
    for (int64_t o = 0; o < axis.out; ++o) {
      starts_.get()[o] = {axis.source(o), axis.first_tap(o), axis.count(o)};
    }
  }
  const Start& at(int64_t o) const { return starts_.get()[o]; }
  const int64_t in, up;

 private:
  Scratch<Start> starts_;
};

// A run of positions (index i of Axis) of a row, and the columns it reads: `used` columns from source column
// `first` on lie inside the image and start at buffer element `skip`; the buffer holds `width` columns.
struct Tile {
  int64_t begin, count, width, skip, first, used;
};

// The horizontal axis with its phases laid out.
template <class F>
class Horizontal {
 public:
  Horizontal(const Axis& axis, int64_t lanes) : axis_(axis), lanes_(lanes), phases_(axis.period) {
    used_ = axis.period < axis.out ? axis.period : axis.out;
    low_ = axis.source(0);
    reach_ = 0;
    for (int64_t q = 0; q < used_; ++q) {
      const Phase phase{axis.first_tap(q), axis.source(q), axis.count(q), axis.positions(q)};
      low_ = phase.source < low_ ? phase.source : low_;
      single_pass_ = single_pass_ && phase.count >= 1 && phase.count <= kChunk;
      phases_.get()[q] = phase;
    }
    const Phase* phase = phases_.get();
    for (int64_t q = 0; q < used_; ++q) {
      const int64_t end = phase[q].source - low_ + phase[q].count;
      reach_ = end > reach_ ? end : reach_;
    }
    pair_ =
        lanes == 1 && axis.period == 2 && axis.step == 1 && used_ == 2 && phase[0].count == phase[1].count;
  }

  int64_t positions() const { return phases_.get()[0].positions; }
  int64_t period() const { return axis_.period; }
  int64_t step() const { return axis_.step; }
  // Columns that `count` positions read.
  int64_t width(int64_t count) const { return reach_ + axis_.step * (count - 1); }
  // True when every output position has between 1 and kChunk taps: run<false> then writes a final row at
  // once.
  bool single_pass() const { return single_pass_; }

  Tile tile(int64_t begin, int64_t count) const {
    const int64_t low = low_ + axis_.step * begin, high = low + width(count);
    const int64_t first = low > 0 ? low : 0, end = high < axis_.in ? high : axis_.in;
    if (end <= first) return {begin, count, high - low, 0, 0, 0};
    return {begin, count, high - low, (first - low) * lanes_, first, end - first};
  }
  // Elements of the output row that a tile writes.
  int64_t out_elements(const Tile& tile) const {
    const int64_t begin = tile.begin * axis_.period, end = begin + tile.count * axis_.period;
    return ((end < axis_.out ? end : axis_.out) - begin) * lanes_;
  }

  // weights: the taps of phase q from q * length on.
  int64_t weights_size() const { return axis_.period * axis_.length; }
  void sort_taps(const F* taps, F* weights) const {
    for (int64_t q = 0; q < used_; ++q) {
      F* to = weights + q * axis_.length;
      for (int64_t k = phases_.get()[q].first_tap; k < axis_.length; k += axis_.up) *to++ = taps[k];
    }
  }

  // y (+)= the filtered v; v is the tile's buffer, y its first output element.
  template <bool kAdd, class O>
  void run(const Tile& tile, const F* v, const F* weights, O* y) const {
    if (!kAdd && pair_) return run_pair(tile, v, weights, y);
    for (int64_t q = 0; q < used_; ++q) {
      const Phase& phase = phases_.get()[q];
      const F* from = v + (phase.source - low_) * lanes_;
      const int64_t positions = positions_in(tile, phase);
      for (int64_t j = 0; j < phase.count; j += kChunk) {
        with_taps(phase.count - j, [&](auto taps) {
          horizontal_chunk<kAdd, decltype(taps)::value>(from + j * lanes_, weights + q * axis_.length + j,
                                                        y + q * lanes_, positions, lanes_, axis_.step,
                                                        axis_.period);
        });
      }
    }
  }

 private:
  struct Phase {
    int64_t first_tap, source, count, positions;
  };

  static int64_t positions_in(const Tile& tile, const Phase& phase) {
    const int64_t left = phase.positions - tile.begin;
    return left < tile.count ? left : tile.count;
  }

  template <class O>
  void run_pair(const Tile& tile, const F* v, const F* weights, O* y) const {
    const Phase *even = phases_.get(), *odd = even + 1;
    const F* even_from = v + (even->source - low_);
    const int64_t pairs = positions_in(tile, *odd);
    with_taps(even->count, [&](auto taps) {
      constexpr int kTaps = decltype(taps)::value;
      horizontal_pair<kTaps>(even_from, v + (odd->source - low_), weights, weights + axis_.length, y, pairs);
      if (positions_in(tile, *even) > pairs) {
        horizontal_chunk<false, kTaps>(even_from + pairs, weights, y + 2 * pairs, 1, 1, 1, 1);
      }
    });
  }

  Axis axis_;
  int64_t lanes_, low_, reach_, used_;
  Scratch<Phase> phases_;
  bool single_pass_ = true, pair_ = false;
};

// The filter in the order in which it meets the sources, times the gain: one vector per axis when
// `separable`, else `full` [filter_h, filter_w].
template <class F>
struct Filter {
  bool separable;
  Scratch<F> vertical, horizontal, full;

  explicit Filter(const Upfirdn2dParams& p)
      : separable(p.separable),
        vertical(p.filter_h),
        horizontal(p.filter_w),
        full(p.separable ? 0 : int64_t{p.filter_h} * p.filter_w) {
    const F *taps = static_cast<const F*>(p.filter), gain = F(p.gain);
    const int h = p.filter_h, w = p.filter_w;
    if (p.separable) {
      for (int k = 0; k < w; ++k) {
        horizontal.get()[k] = taps[p.flip ? k : w - 1 - k];
        vertical.get()[k] = horizontal.get()[k] * gain;
      }
      return;
    }
    for (int i = 0; i < h * w; ++i) full.get()[i] = taps[p.flip ? i : h * w - 1 - i] * gain;
    if constexpr (sizeof(F) == sizeof(float)) separable = split(h, w);
  }

 private:
  // Fills `vertical` and `horizontal` when their outer product is `full` within float rounding.
  bool split(int h, int w) {
    const F* f = full.get();
    int largest = 0;
    for (int i = 1; i < h * w; ++i) largest = magnitude_of(f[i]) > magnitude_of(f[largest]) ? i : largest;
    const double pivot = f[largest];
    const int row = largest / w, column = largest % w;
    if (pivot == 0 || pivot != pivot) return false;
    for (int y = 0; y < h; ++y) {
      for (int x = 0; x < w; ++x) {
        const double product = f[y * w + column] / pivot * f[row * w + x];
        const double error = product - f[y * w + x];
        if (!(error <= 3e-7 * magnitude_of(pivot) && error >= -3e-7 * magnitude_of(pivot))) return false;
      }
    }
    for (int y = 0; y < h; ++y) vertical.get()[y] = F(f[y * w + column] / pivot);
    for (int x = 0; x < w; ++x) horizontal.get()[x] = f[row * w + x];
    return true;
  }
  static double magnitude_of(double v) { return v < 0 ? -v : v; }
};

// ---- one tile of one output row

template <class T>
struct Rows {
  using F = Compute<T>;
  const Filter<F>& filter;
  const Vertical& vertical;
  const Horizontal<F>& horizontal;
  const F* weights;          // sorted taps; one set per filter row when the filter is not separable
  int64_t lanes, in_length;  // in_length: elements of an input row

  // Columns outside the image are zero.
  void clear_margins(const Tile& tile, F* v) const {
    for (int64_t i = 0; i < tile.skip; ++i) v[i] = 0;
    for (int64_t i = tile.skip + tile.used * lanes; i < tile.width * lanes; ++i) v[i] = 0;
  }

  // v = the vertical filter on the columns of the tile; false when no row of the image takes part.
  bool filter_columns(const Tile& tile, const T* plane, const Start& start, F* v) const {
    const T* rows[kChunk];
    F row_weights[kChunk];
    int filled = 0;
    bool started = false;
    int64_t source = start.source, tap = start.first_tap;
    for (int64_t j = 0; j < start.count; ++j, ++source, tap += vertical.up) {
      if (source >= 0 && source < vertical.in) {
        rows[filled] = plane + source * in_length + tile.first * lanes;
        row_weights[filled++] = filter.vertical.get()[tap];
      }
      if (filled == kChunk || (filled > 0 && j == start.count - 1)) {
        with_taps(filled, [&](auto taps) {
          constexpr int kTaps = decltype(taps)::value;
          if (started) {
            vertical_chunk<true, kTaps>(rows, row_weights, v + tile.skip, tile.used * lanes);
          } else {
            vertical_chunk<false, kTaps>(rows, row_weights, v + tile.skip, tile.used * lanes);
          }
        });
        started = true;
        filled = 0;
      }
    }
    return started;
  }

  // y: the first output element of the tile; v: the filtered columns, or null when no row of the image takes
  // part; sums: a buffer for the tile's outputs.
  void filter_rows(const Tile& tile, const F* v, F* sums, T* y) const {
    const int64_t outputs = horizontal.out_elements(tile);
    if (v == nullptr) {
      for (int64_t i = 0; i < outputs; ++i) y[i] = store<T>(F(0));
      return;
    }
    if (horizontal.single_pass()) return horizontal.template run<false>(tile, v, weights, y);
    for (int64_t i = 0; i < outputs; ++i) sums[i] = 0;
    horizontal.template run<true>(tile, v, weights, sums);
    for (int64_t i = 0; i < outputs; ++i) y[i] = store<T>(sums[i]);
  }

  void full(const Tile& tile, const T* plane, const Start& start, F* v, F* sums, T* y) const {
    const int64_t outputs = horizontal.out_elements(tile), used = tile.used * lanes;
    int64_t source = start.source, tap = start.first_tap;
    for (int64_t i = 0; i < outputs; ++i) sums[i] = 0;
    for (int64_t j = 0; j < start.count; ++j, ++source, tap += vertical.up) {
      if (source < 0 || source >= vertical.in) continue;
      const T* row = plane + source * in_length + tile.first * lanes;
      for (int64_t i = 0; i < used; ++i) v[tile.skip + i] = load(row[i]);
      horizontal.template run<true>(tile, v, weights + tap * horizontal.weights_size(), sums);
    }
    for (int64_t i = 0; i < outputs; ++i) y[i] = store<T>(sums[i]);
  }
};

template <class T>
void upfirdn2d_as(const Upfirdn2dParams& p, int threads) {
  using F = Compute<T>;
  const int64_t lanes = p.channels_last ? p.c : 1, planes = p.channels_last ? p.n : p.n * p.c;
  const Filter<F> filter(p);
  const Vertical vertical(Axis(p.in_h, p.out_h, p.up_y, p.down_y, p.pad_y0, p.filter_h));
  const Horizontal<F> horizontal(Axis(p.in_w, p.out_w, p.up_x, p.down_x, p.pad_x0, p.filter_w), lanes);
  const int64_t filter_rows = filter.separable ? 1 : p.filter_h;
  const Scratch<F> weights(filter_rows * horizontal.weights_size());
  for (int64_t k = 0; k < filter_rows; ++k) {
    const F* taps = filter.separable ? filter.horizontal.get() : filter.full.get() + k * p.filter_w;
    horizontal.sort_taps(taps, weights.get() + k * horizontal.weights_size());
  }
  const Rows<T> rows{filter, vertical, horizontal, weights.get(), lanes, p.in_w * lanes};

  const int64_t positions = horizontal.positions(), fitting = kTileElements / (horizontal.step() * lanes);
  const int64_t wanted = fitting < kMinPositions ? kMinPositions : fitting;
  const int64_t tile_positions = wanted < positions ? wanted : positions;
  const int64_t buffer = (horizontal.width(tile_positions) * lanes + 64) / 64 * 64;
  const int64_t sums_size = (tile_positions * horizontal.period() * lanes + 63) / 64 * 64;
  const int64_t fitting_batch = kBatchElements / buffer, out_length = p.out_w * lanes;
  const int64_t batch = fitting_batch < 1 ? 1 : fitting_batch < kMaxBatch ? fitting_batch : kMaxBatch;
  const int64_t worker_size = batch * buffer + sums_size;
  const int workers = worker_count(threads, 2 * planes * p.out_h * out_length);
  const Scratch<F> buffers(workers * worker_size);
  parallel_ranges(workers, planes * p.out_h, 1, [&](int worker, int64_t begin, int64_t end) {
    F *buffers_v = buffers.get() + worker * worker_size, *sums = buffers_v + batch * buffer;
    const T* x = static_cast<const T*>(p.x);
    for (int64_t at = 0; at < positions; at += tile_positions) {
      const Tile tile =
          horizontal.tile(at, at + tile_positions < positions ? tile_positions : positions - at);
      T* y = static_cast<T*>(p.y) + at * horizontal.period() * lanes;
      for (int64_t b = 0; b < batch; ++b) rows.clear_margins(tile, buffers_v + b * buffer);
      int64_t plane = begin / p.out_h, o = begin % p.out_h;
      const F* filtered[kMaxBatch];
      for (int64_t r = begin; r < end; r += batch) {
        const int64_t count = end - r < batch ? end - r : batch;
        for (int64_t b = 0; b < count; ++b) {
          const T* from = x + plane * p.in_h * p.in_w * lanes;
          F* v = buffers_v + b * buffer;
          if (filter.separable) {
            filtered[b] = rows.filter_columns(tile, from, vertical.at(o), v) ? v : nullptr;
          } else {
            rows.full(tile, from, vertical.at(o), v, sums, y + (r + b) * out_length);
          }
          if (++o == p.out_h) {
            o = 0;
            ++plane;
          }
        }
        if (!filter.separable) continue;
        for (int64_t b = 0; b < count; ++b)
          rows.filter_rows(tile, filtered[b], sums, y + (r + b) * out_length);
      }
    }
  });
}

}  // namespace

void upfirdn2d(const Upfirdn2dParams& p, int threads) {
  if (p.n == 0 || p.c == 0 || p.out_h == 0 || p.out_w == 0) return;
  with_dtype(p.dtype, [&](auto element) { upfirdn2d_as<decltype(element)>(p, threads); });
}

}  // namespace pyface::PYFACE_ISA_NS
