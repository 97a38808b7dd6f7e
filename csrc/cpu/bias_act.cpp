// bias_act and its first derivative on the CPU: one pass over memory, vectorised by the compiler.
#include "pyface/bias_act.h"

#include "cpu/activation.h"
#include "cpu/parallel.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

constexpr int64_t kGrain = 64;

// y[i] = post(act(x[i] + b)) with one b for the piece. x may be y.
template <Act kAct, class T, class F>
void row_piece(const T* x, F b, T* y, int64_t count, F alpha, GainClamp<F> post) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = store<T>(post(activate<kAct>(load(x[i]) + b, alpha)));
}

// The same with one bias per element.
template <Act kAct, class T, class F>
void channel_piece(const T* x, const F* b, T* y, int64_t count, F alpha, GainClamp<F> post) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) y[i] = store<T>(post(activate<kAct>(load(x[i]) + b[i], alpha)));
}

// What the gradient kernels need beside the data.
template <class F>
struct GradScalars {
  F alpha, gain, inverse_gain, limit;
};

// bias: one value for the piece (kPerElement false) or one per element; read for swish only.
template <Act kAct, bool kPerElement, class T, class F>
void grad_piece(const T* dy, const T* ref, const F* bias, T* dx, int64_t count, GradScalars<F> s) {
  const F shared_bias = bias[0];
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const F r = load(ref[i]), slope_in = load(dy[i]) * s.gain;
    F y = r, argument = r * s.inverse_gain;
    if constexpr (kAct == Act::kSwish) {
      argument = r + (kPerElement ? bias[i] : shared_bias);
      y = load(store<T>(argument * sigmoid(argument) * s.gain));
    }
    const F slope = slope_in * derivative<kAct>(argument, s.alpha);
    dx[i] = store<T>(magnitude(y) >= s.limit ? F(0) : slope);
  }
}

// Bias as F, one per memory position of a channels-last tile: the channels repeated until a tile is long
// enough to hide the cost of starting a loop. Without bias the tile is not used.
template <class T>
struct BiasTile {
  using F = Compute<T>;
  int64_t length;
  Scratch<F> values;
  BiasTile(const void* bias, int64_t channels)
      : length(channels >= 512 ? channels : (512 / channels + 1) * channels), values(length) {
    const T* b = static_cast<const T*>(bias);
    for (int64_t i = 0, c = 0; i < length; ++i, c = c + 1 == channels ? 0 : c + 1)
      values.get()[i] = load(b[c]);
  }
};

template <Act kAct, class T>
void forward(const BiasActParams& p, int threads) {
  using F = Compute<T>;
  const T *x = static_cast<const T*>(p.x), *bias = static_cast<const T*>(p.bias);
  T* y = static_cast<T*>(p.y);
  const int64_t total = p.outer * p.channels * p.inner;
  const int workers = worker_count(threads, total);
  const F alpha = F(p.alpha);
  const GainClamp<F> post(p.gain, p.clamp);
  if (!bias) {
    parallel_ranges(workers, total, kGrain, [&](int, int64_t begin, int64_t end) {
      row_piece<kAct>(x + begin, F(0), y + begin, end - begin, alpha, post);
    });
  } else if (p.inner > 1) {
    parallel_ranges(workers, total, kGrain, [&](int, int64_t begin, int64_t end) {
      for_row_pieces(begin, end, p.inner, [&](int64_t row, int64_t offset, int64_t count) {
        const int64_t at = row * p.inner + offset;
        row_piece<kAct>(x + at, load(bias[row % p.channels]), y + at, count, alpha, post);
      });
    });
  } else {
    const BiasTile<T> tile(bias, p.channels);
    parallel_ranges(workers, total, kGrain, [&](int, int64_t begin, int64_t end) {
      for_row_pieces(begin, end, tile.length, [&](int64_t row, int64_t offset, int64_t count) {
        const int64_t at = row * tile.length + offset;
        channel_piece<kAct>(x + at, tile.values.get() + offset, y + at, count, alpha, post);
      });
    });
  }
}

template <Act kAct, class T>
void backward(const BiasActGradParams& p, int threads) {
  using F = Compute<T>;
  const T *dy = static_cast<const T*>(p.dy), *ref = static_cast<const T*>(p.ref);
  const T* bias = static_cast<const T*>(p.bias);
  T* dx = static_cast<T*>(p.dx);
  const int64_t total = p.outer * p.channels * p.inner;
  const int workers = worker_count(threads, total);
  // y was rounded to T when it was clamped, so the limit is rounded too.
  const F limit = p.clamp < 0 ? F(__builtin_inf()) : load(store<T>(F(p.clamp)));
  const GradScalars<F> s{F(p.alpha), F(p.gain), p.gain != 0 ? F(1 / p.gain) : F(0), limit};
  if (kAct != Act::kSwish || !bias) {
    const F none = 0;
    parallel_ranges(workers, total, kGrain, [&](int, int64_t begin, int64_t end) {
      grad_piece<kAct, false>(dy + begin, ref + begin, &none, dx + begin, end - begin, s);
    });
  } else if (p.inner > 1) {
    parallel_ranges(workers, total, kGrain, [&](int, int64_t begin, int64_t end) {
      for_row_pieces(begin, end, p.inner, [&](int64_t row, int64_t offset, int64_t count) {
        const int64_t at = row * p.inner + offset;
        const F b = load(bias[row % p.channels]);
        grad_piece<kAct, false>(dy + at, ref + at, &b, dx + at, count, s);
      });
    });
  } else {
    const BiasTile<T> tile(bias, p.channels);
    parallel_ranges(workers, total, kGrain, [&](int, int64_t begin, int64_t end) {
      for_row_pieces(begin, end, tile.length, [&](int64_t row, int64_t offset, int64_t count) {
        const int64_t at = row * tile.length + offset;
        grad_piece<kAct, true>(dy + at, ref + at, tile.values.get() + offset, dx + at, count, s);
      });
    });
  }
}

}  // namespace

void bias_act(const BiasActParams& p, int threads) {
  if (p.outer == 0 || p.channels == 0 || p.inner == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    with_act(p.act, [&](auto act) { forward<decltype(act)::value, decltype(element)>(p, threads); });
  });
}

void bias_act_grad(const BiasActGradParams& p, int threads) {
  if (p.outer == 0 || p.channels == 0 || p.inner == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    with_act(p.act, [&](auto act) { backward<decltype(act)::value, decltype(element)>(p, threads); });
  });
}

}  // namespace pyface::PYFACE_ISA_NS
