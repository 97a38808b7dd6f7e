// The passes around the convolution of a modulated convolution on the CPU.
#include "pyface/modulated_conv2d.h"

#include "cpu/activation.h"
#include "cpu/parallel.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

constexpr int64_t kGrain = 64;

// ---- modulate

template <class T>
void modulate_as(const ModulateParams& p, int threads) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(p.x);
  const F* scale = static_cast<const F*>(p.scale);
  T* y = static_cast<T*>(p.y);
  const int64_t total = p.n * p.c * p.hw, row_length = p.channels_last ? p.c : p.hw;
  parallel_ranges(worker_count(threads, total), total, kGrain, [&](int, int64_t begin, int64_t end) {
    for_row_pieces(begin, end, row_length, [&](int64_t row, int64_t offset, int64_t count) {
      const T* from = x + row * row_length + offset;
      T* to = y + row * row_length + offset;
      if (p.channels_last) {
        const F* s = scale + row / p.hw * p.c + offset;
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) to[i] = store<T>(load(from[i]) * s[i]);
      } else {
        const F s = scale[row];
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) to[i] = store<T>(load(from[i]) * s);
      }
    });
  });
}

// ---- demodulate

// sum_i a[i] * b[i] in as many partial sums as fill two cache lines.
template <class F>
F dot(const F* a, const F* b, int64_t count) {
  constexpr int kLanes = 128 / sizeof(F);
  typedef F Lanes __attribute__((vector_size(kLanes * sizeof(F)), aligned(alignof(F))));
  Lanes sums = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Lanes va, vb;
    __builtin_memcpy(&va, a + i, sizeof(va));
    __builtin_memcpy(&vb, b + i, sizeof(vb));
    sums += va * vb;
  }
  F sum = 0;
  for (; i < count; ++i) sum += a[i] * b[i];
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

template <class F>
void demodulate_as(const DemodulateParams& p, int threads) {
  const F *weight_sq = static_cast<const F*>(p.weight_sq), *styles = static_cast<const F*>(p.styles);
  F* demod = static_cast<F*>(p.demod);
  const Scratch<F> squares(p.n * p.in_channels);
  for (int64_t i = 0; i < p.n * p.in_channels; ++i) squares.get()[i] = styles[i] * styles[i];
  const int workers = worker_count(threads, p.n * p.out_channels * p.in_channels);
  parallel_ranges(workers, p.out_channels, 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t n = 0; n < p.n; ++n) {
        const F energy = dot(weight_sq + o * p.in_channels, squares.get() + n * p.in_channels, p.in_channels);
        const F biased = energy + F(p.eps);
        demod[n * p.out_channels + o] =
            F(1) / (sizeof(F) == 4 ? F(__builtin_sqrtf(biased)) : F(__builtin_sqrt(biased)));
      }
    }
  });
}

// ---- conv_epilogue

// One plane piece: one demod, bias and next style; noise per element, or null.
template <Act kAct, bool kNoise, class T, class F>
void plane_piece(const T* x, F demod, const F* noise, F bias, F next_style, T* y, int64_t count, F alpha,
                 GainClamp<F> post) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const F shift = kNoise ? noise[i] + bias : bias;
    y[i] = store<T>(post(activate<kAct>(load(x[i]) * demod + shift, alpha)) * next_style);
  }
}

// One pixel piece: one noise; demod, bias and next style per element.
template <Act kAct, class T, class F>
void pixel_piece(const T* x, const F* demod, F noise, const F* bias, const F* next_style, T* y, int64_t count,
                 F alpha, GainClamp<F> post) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    y[i] = store<T>(post(activate<kAct>(load(x[i]) * demod[i] + (bias[i] + noise), alpha)) * next_style[i]);
  }
}

template <class F>
struct SideVectors {
  const F *demod, *noise, *bias, *next_style;
  explicit SideVectors(const ConvEpilogueParams& p)
      : demod(static_cast<const F*>(p.demod)),
        noise(static_cast<const F*>(p.noise)),
        bias(static_cast<const F*>(p.bias)),
        next_style(static_cast<const F*>(p.next_style)) {}
};

template <Act kAct, class T>
void epilogue_planes(const ConvEpilogueParams& p, int threads) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  const SideVectors<F> side(p);
  const F alpha = F(p.alpha);
  const GainClamp<F> post(p.gain, p.clamp);
  const int64_t total = p.n * p.c * p.hw;
  parallel_ranges(worker_count(threads, total), total, kGrain, [&](int, int64_t begin, int64_t end) {
    for_row_pieces(begin, end, p.hw, [&](int64_t row, int64_t offset, int64_t count) {
      const int64_t at = row * p.hw + offset, sample = row / p.c, channel = row % p.c;
      const F demod = side.demod ? side.demod[row] : F(1), bias = side.bias ? side.bias[channel] : F(0);
      const F next_style = side.next_style ? side.next_style[row] : F(1);
      if (side.noise) {
        const F* noise = side.noise + (p.noise_per_sample ? sample * p.hw : 0) + offset;
        plane_piece<kAct, true>(x + at, demod, noise, bias, next_style, y + at, count, alpha, post);
      } else {
        plane_piece<kAct, false>(x + at, demod, side.noise, bias, next_style, y + at, count, alpha, post);
      }
    });
  });
}

template <Act kAct, class T>
void epilogue_pixels(const ConvEpilogueParams& p, int threads) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  const SideVectors<F> side(p);
  const F alpha = F(p.alpha);
  const GainClamp<F> post(p.gain, p.clamp);
  const Scratch<F> ones(p.c), zeros(p.c);  // stand for absent vectors
  for (int64_t c = 0; c < p.c; ++c) {
    ones.get()[c] = 1;
    zeros.get()[c] = 0;
  }
  const int64_t total = p.n * p.c * p.hw;
  parallel_ranges(worker_count(threads, total), total, kGrain, [&](int, int64_t begin, int64_t end) {
    for_row_pieces(begin, end, p.c, [&](int64_t row, int64_t offset, int64_t count) {
      const int64_t at = row * p.c + offset, sample = row / p.hw;
      const F* demod = (side.demod ? side.demod + sample * p.c : ones.get()) + offset;
      const F* bias = (side.bias ? side.bias : zeros.get()) + offset;
      const F* next_style = (side.next_style ? side.next_style + sample * p.c : ones.get()) + offset;
      const F noise = side.noise ? side.noise[p.noise_per_sample ? row : row - sample * p.hw] : F(0);
      pixel_piece<kAct>(x + at, demod, noise, bias, next_style, y + at, count, alpha, post);
    });
  });
}

// ---- pack_weight, unpack_weight

// Channels that are turned from [channel][tap] to [tap][channel] at a time: a piece of them fits the L1
// cache.
constexpr int64_t kPackIn = 32, kPackOut = 32;

// to[t * stride + i] = from[i * taps + t] for `count` channels; kTaps is 0 where `taps` is not known here.
template <int kTaps, class To, class From, class Convert>
void spread_taps(const From* from, To* to, int64_t taps, int64_t stride, int64_t count, bool flip,
                 Convert convert) {
  const int64_t length = kTaps ? kTaps : taps;
  for (int64_t t = 0; t < length; ++t) {
    const From* source = from + (flip ? length - 1 - t : t);
    To* target = to + t * stride;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) target[i] = convert(source[i * length]);
  }
}

// The adjoint: to[i * taps + t] = from[t * stride + i].
template <int kTaps, class To, class From, class Convert>
void gather_taps(const From* from, To* to, int64_t taps, int64_t stride, int64_t count, bool flip,
                 Convert convert) {
  const int64_t length = kTaps ? kTaps : taps;
  for (int64_t t = 0; t < length; ++t) {
    const From* source = from + t * stride;
    To* target = to + (flip ? length - 1 - t : t);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) target[i * length] = convert(source[i]);
  }
}

template <int kTaps, bool kPack, class T>
void pack_rows(const PackWeightParams& p, int threads) {
  using F = Compute<T>;
  const F gain = F(p.gain);
  const auto pack = [gain](F v) { return store<T>(v * gain); };
  const auto unpack = [gain](T v) { return load(v) * gain; };
  const int64_t row = p.in_channels * p.taps;
  const int workers = worker_count(threads, p.out_channels * row);
  parallel_ranges(workers, p.out_channels, 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t i = 0; i < p.in_channels; i += kPackIn) {
        const int64_t count = i + kPackIn < p.in_channels ? kPackIn : p.in_channels - i;
        const int64_t learned = o * row + i * p.taps, packed = o * row + i;
        if constexpr (kPack) {
          spread_taps<kTaps>(static_cast<const F*>(p.from) + learned, static_cast<T*>(p.to) + packed, p.taps,
                             p.in_channels, count, p.flip, pack);
        } else {
          gather_taps<kTaps>(static_cast<const T*>(p.from) + packed, static_cast<F*>(p.to) + learned, p.taps,
                             p.in_channels, count, p.flip, unpack);
        }
      }
    }
  });
}

// Tiles of kPackOut x kPackIn channels: read along one axis into a buffer, written along the other.
template <int kTaps, bool kPack, class T>
void pack_columns(const PackWeightParams& p, int threads) {
  using F = Compute<T>;
  const F gain = F(p.gain);
  const auto pack = [gain](F v) { return store<T>(v * gain); };
  const auto unpack = [gain](T v) { return load(v) * gain; };
  const int64_t taps = kTaps ? kTaps : p.taps, row = p.in_channels * taps, column = p.out_channels * taps;
  const int64_t pieces = (p.in_channels + kPackIn - 1) / kPackIn;
  const int workers = worker_count(threads, p.out_channels * row);
  parallel_ranges(workers, pieces, 1, [&](int, int64_t begin, int64_t end) {
    const Scratch<T> tile(kPackOut * kPackIn * taps);  // [out][in][tap]
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t i = piece * kPackIn, ins = i + kPackIn < p.in_channels ? kPackIn : p.in_channels - i;
      for (int64_t o = 0; o < p.out_channels; o += kPackOut) {
        const int64_t outs = o + kPackOut < p.out_channels ? kPackOut : p.out_channels - o;
        for (int64_t b = 0; kPack && b < outs; ++b) {
          const F* from = static_cast<const F*>(p.from) + (o + b) * row + i * taps;
          T* to = tile.get() + b * kPackIn * taps;
#pragma GCC ivdep
          for (int64_t k = 0; k < ins * taps; ++k) to[k] = pack(from[k]);
        }
        for (int64_t a = 0; a < ins; ++a) {
          for (int64_t t = 0; t < taps; ++t) {
            const int64_t packed = (i + a) * column + t * p.out_channels + o;
            T* inside = tile.get() + a * taps + (p.flip ? taps - 1 - t : t);
            if constexpr (kPack) {
              T* to = static_cast<T*>(p.to) + packed;
              for (int64_t b = 0; b < outs; ++b) to[b] = inside[b * kPackIn * taps];
            } else {
              const T* from = static_cast<const T*>(p.from) + packed;
              for (int64_t b = 0; b < outs; ++b) inside[b * kPackIn * taps] = from[b];
            }
          }
        }
        for (int64_t b = 0; !kPack && b < outs; ++b) {
          const T* from = tile.get() + b * kPackIn * taps;
          F* to = static_cast<F*>(p.to) + (o + b) * row + i * taps;
#pragma GCC ivdep
          for (int64_t k = 0; k < ins * taps; ++k) to[k] = unpack(from[k]);
        }
      }
    }
  });
}

template <bool kPack>
void repack(const PackWeightParams& p, int threads) {
  if (p.out_channels == 0 || p.in_channels == 0 || p.taps == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    if (p.taps == 9) {
      p.transposed ? pack_columns<9, kPack, T>(p, threads) : pack_rows<9, kPack, T>(p, threads);
    } else {
      p.transposed ? pack_columns<0, kPack, T>(p, threads) : pack_rows<0, kPack, T>(p, threads);
    }
  });
}

}  // namespace

void pack_weight(const PackWeightParams& p, int threads) { repack<true>(p, threads); }
void unpack_weight(const PackWeightParams& p, int threads) { repack<false>(p, threads); }

void modulate(const ModulateParams& p, int threads) {
  if (p.n == 0 || p.c == 0 || p.hw == 0) return;
  with_dtype(p.dtype, [&](auto element) { modulate_as<decltype(element)>(p, threads); });
}

void demodulate(const DemodulateParams& p, int threads) {
  if (p.dtype == DType::kF64) {
    demodulate_as<double>(p, threads);
  } else {
    demodulate_as<float>(p, threads);
  }
}

void conv_epilogue(const ConvEpilogueParams& p, int threads) {
  if (p.n == 0 || p.c == 0 || p.hw == 0) return;
  with_dtype(p.dtype, [&](auto element) {
    with_act(p.act, [&](auto act) {
      if (p.channels_last) {
        epilogue_pixels<decltype(act)::value, decltype(element)>(p, threads);
      } else {
        epilogue_planes<decltype(act)::value, decltype(element)>(p, threads);
      }
    });
  });
}

}  // namespace pyface::PYFACE_ISA_NS
