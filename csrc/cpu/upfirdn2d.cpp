// upfirdn2d on the CPU. Zero insertion is never carried out: an output position meets only the taps of its
// phase. A separable (or rank-1) filter runs one vertical pass per output row into a padded row buffer, then
// a horizontal pass over that buffer; any other filter runs a horizontal pass per filter row and sums.
#include "pyface/upfirdn2d.h"

#include "cpu/parallel.h"
#include "cpu/scalar.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

constexpr int kChunk = 4;  // taps a loop applies at once; longer filters add up in several passes

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

// ---- one output row

// The horizontal axis with its phases laid out, and the part of the input row that it reads.
template <class F>
class Horizontal {
 public:
  Horizontal(const Axis& axis, int64_t lanes) : axis_(axis), lanes_(lanes), phases_(axis.period) {
    low_ = high_ = axis.source(0);
    used_ = axis.period < axis.out ? axis.period : axis.out;
    for (int64_t q = 0; q < used_; ++q) {
      const Phase phase{axis.first_tap(q), axis.source(q), axis.count(q), axis.positions(q)};
      const int64_t end = phase.source + axis.step * (phase.positions - 1) + phase.count;
      low_ = phase.source < low_ ? phase.source : low_;
      high_ = end > high_ ? end : high_;
      single_pass_ = single_pass_ && phase.count >= 1 && phase.count <= kChunk;
      phases_.get()[q] = phase;
    }
    const Phase* phase = phases_.get();
    pair_ =
        lanes == 1 && axis.period == 2 && axis.step == 1 && used_ == 2 && phase[0].count == phase[1].count;
  }

  // The sources read are low() to low() + width() - 1.
  int64_t low() const { return low_; }
  int64_t width() const { return high_ - low_; }
  // True when every output position has between 1 and kChunk taps: run<false> then writes a final row at
  // once.
  bool single_pass() const { return single_pass_; }

  // weights: the taps of phase q from q * length on.
  int64_t weights_size() const { return axis_.period * axis_.length; }
  void sort_taps(const F* taps, F* weights) const {
    for (int64_t q = 0; q < used_; ++q) {
      F* to = weights + q * axis_.length;
      for (int64_t k = phases_.get()[q].first_tap; k < axis_.length; k += axis_.up) *to++ = taps[k];
    }
  }

  // y (+)= the filtered v, whose first element is the source low().
  template <bool kAdd, class O>
  void run(const F* v, const F* weights, O* y) const {
    if (!kAdd && pair_) return run_pair(v, weights, y);
    for (int64_t q = 0; q < used_; ++q) {
      const Phase& phase = phases_.get()[q];
      const F* from = v + (phase.source - low_) * lanes_;
      for (int64_t j = 0; j < phase.count; j += kChunk) {
        with_taps(phase.count - j, [&](auto taps) {
          horizontal_chunk<kAdd, decltype(taps)::value>(from + j * lanes_, weights + q * axis_.length + j,
                                                        y + q * lanes_, phase.positions, lanes_, axis_.step,
                                                        axis_.period);
        });
      }
    }
  }

 private:
  struct Phase {
    int64_t first_tap, source, count, positions;
  };

  template <class O>
  void run_pair(const F* v, const F* weights, O* y) const {
    const Phase *even = phases_.get(), *odd = even + 1;
    const F* even_from = v + (even->source - low_);
    with_taps(even->count, [&](auto taps) {
      horizontal_pair<decltype(taps)::value>(even_from, v + (odd->source - low_), weights,
                                             weights + axis_.length, y, odd->positions);
      if (even->positions > odd->positions) {
        horizontal_chunk<false, decltype(taps)::value>(even_from + odd->positions, weights,
                                                       y + 2 * odd->positions, 1, 1, 1, 1);
      }
    });
  }

  Axis axis_;
  int64_t lanes_, low_, high_, used_;
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

// Everything that stays the same from row to row.
template <class T>
struct Rows {
  using F = Compute<T>;
  const Filter<F>& filter;
  const Axis& vertical;
  const Horizontal<F>& horizontal;
  const F* weights;  // sorted taps; one set per filter row when the filter is not separable
  // Columns inside the image: their first buffer element, first source column and count.
  int64_t lanes, skip, first, used;
  int64_t in_length, out_length;  // elements of an input and of an output row

  // v: padded row buffer, zero outside its used part. sums: one output row.
  void separable_row(const T* plane, int64_t o, F* v, F* sums, T* y) const {
    const int64_t count = vertical.count(o);
    int64_t source = vertical.source(o), tap = vertical.first_tap(o);
    const T* rows[kChunk];
    F row_weights[kChunk];
    int filled = 0;
    bool started = false;
    for (int64_t j = 0; j < count; ++j, ++source, tap += vertical.up) {
      if (source >= 0 && source < vertical.in) {
        rows[filled] = plane + source * in_length + first * lanes;
        row_weights[filled++] = filter.vertical.get()[tap];
      }
      if (filled == kChunk || (filled > 0 && j == count - 1)) {
        with_taps(filled, [&](auto taps) {
          constexpr int kTaps = decltype(taps)::value;
          if (started) {
            vertical_chunk<true, kTaps>(rows, row_weights, v + skip, used * lanes);
          } else {
            vertical_chunk<false, kTaps>(rows, row_weights, v + skip, used * lanes);
          }
        });
        started = true;
        filled = 0;
      }
    }
    if (!started) {
      for (int64_t i = 0; i < out_length; ++i) y[i] = store<T>(F(0));
    } else if (horizontal.single_pass()) {
      horizontal.template run<false>(v, weights, y);
    } else {
      for (int64_t i = 0; i < out_length; ++i) sums[i] = 0;
      horizontal.template run<true>(v, weights, sums);
      for (int64_t i = 0; i < out_length; ++i) y[i] = store<T>(sums[i]);
    }
  }

  void full_row(const T* plane, int64_t o, F* v, F* sums, T* y) const {
    const int64_t count = vertical.count(o);
    int64_t source = vertical.source(o), tap = vertical.first_tap(o);
    for (int64_t i = 0; i < out_length; ++i) sums[i] = 0;
    for (int64_t j = 0; j < count; ++j, ++source, tap += vertical.up) {
      if (source < 0 || source >= vertical.in) continue;
      const T* row = plane + source * in_length + first * lanes;
      for (int64_t i = 0; i < used * lanes; ++i) v[skip + i] = load(row[i]);
      horizontal.template run<true>(v, weights + tap * horizontal.weights_size(), sums);
    }
    for (int64_t i = 0; i < out_length; ++i) y[i] = store<T>(sums[i]);
  }
};

template <class T>
void upfirdn2d_as(const Upfirdn2dParams& p, int threads) {
  using F = Compute<T>;
  const int64_t lanes = p.channels_last ? p.c : 1, planes = p.channels_last ? p.n : p.n * p.c;
  const Filter<F> filter(p);
  const Axis across(p.in_w, p.out_w, p.up_x, p.down_x, p.pad_x0, p.filter_w);
  const Axis down(p.in_h, p.out_h, p.up_y, p.down_y, p.pad_y0, p.filter_h);
  const Horizontal<F> horizontal(across, lanes);
  const int64_t filter_rows = filter.separable ? 1 : p.filter_h, width = horizontal.width();
  const Scratch<F> weights(filter_rows * horizontal.weights_size());
  for (int64_t k = 0; k < filter_rows; ++k) {
    const F* taps = filter.separable ? filter.horizontal.get() : filter.full.get() + k * p.filter_w;
    horizontal.sort_taps(taps, weights.get() + k * horizontal.weights_size());
  }
  const int64_t low = horizontal.low(), first = low > 0 ? low : 0;
  const int64_t end = low + width < p.in_w ? low + width : p.in_w, used = end > first ? end - first : 0;
  const Rows<T> rows{filter,
                     down,
                     horizontal,
                     weights.get(),
                     lanes,
                     (first - low) * lanes,
                     used > 0 ? first : 0,
                     used,
                     p.in_w * lanes,
                     p.out_w * lanes};
  const int64_t buffer = (width * lanes + 63) / 64 * 64, row = (p.out_w * lanes + 63) / 64 * 64;
  const int workers = worker_count(threads, 2 * planes * p.out_h * p.out_w * lanes);
  const Scratch<F> buffers(workers * (buffer + row));
  for (int64_t i = 0; i < workers * (buffer + row); ++i) buffers.get()[i] = 0;
  parallel_ranges(workers, planes * p.out_h, 1, [&](int worker, int64_t begin, int64_t row_end) {
    F *v = buffers.get() + worker * (buffer + row), *sums = v + buffer;
    for (int64_t r = begin; r < row_end; ++r) {
      const int64_t plane_index = r / p.out_h;
      const T* plane = static_cast<const T*>(p.x) + plane_index * p.in_h * p.in_w * lanes;
      T* y = static_cast<T*>(p.y) + r * p.out_w * lanes;
      if (filter.separable) {
        rows.separable_row(plane, r - plane_index * p.out_h, v, sums, y);
      } else {
        rows.full_row(plane, r - plane_index * p.out_h, v, sums, y);
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
