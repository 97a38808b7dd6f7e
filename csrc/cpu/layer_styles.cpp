// Products of few vectors with many matrices, each of which is read once: a row at a time, all samples.
#include "pyface/layer_styles.h"

#include "cpu/parallel.h"
#include "cpu/styled_conv_vector.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

constexpr double kEps = 1e-8;
constexpr int64_t kRowsAtOnce = 32;
constexpr int64_t kAhead = 8192;  // bytes: the prefetcher of the CPU stops at the end of a page

PYFACE_INLINE V16 wide16(const float* from) { return load16_unaligned(from); }
template <class T>
PYFACE_INLINE V16 wide16(const T* from) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  if constexpr (sizeof(T) == 2 && __is_same(T, f16)) return (V16)_mm512_cvtph_ps(bits);
  return (V16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#else
  V16 v;
  for (int i = 0; i < 16; ++i) v[i] = load(from[i]);
  return v;
#endif
}

// sums[s] = row . (vectors + s * stride), squared elements of vectors where kSquared.
template <int kSamples, bool kSquared, class T>
PYFACE_INLINE void dots_of(const T* row, const float* vectors, int64_t stride, int64_t length, float* sums) {
  // One sample has sums of its own for every other vector, so that none waits for the one before.
  constexpr int kApart = kSamples == 1 ? 4 : 1;
  V16 totals[kApart][kSamples] = {};
  int64_t i = 0;
  for (; i + 16 * kApart <= length; i += 16 * kApart) {
#pragma GCC unroll 4
    for (int part = 0; part < kApart; ++part) {
      const V16 r = wide16(row + i + part * 16);
      __builtin_prefetch(reinterpret_cast<const char*>(row + i + part * 16) + kAhead);
#pragma GCC unroll 4
      for (int s = 0; s < kSamples; ++s) {
        const V16 v = load16_unaligned(vectors + s * stride + i + part * 16);
        totals[part][s] += kSquared ? r * (v * v) : r * v;
      }
    }
  }
  V16* total = totals[0];
  for (int part = 1; part < kApart; ++part) total[0] += totals[part][0];
  for (int s = 0; s < kSamples; ++s) {
    float sum = sum16(total[s]);
    for (int64_t k = i; k < length; ++k) {
      const float v = vectors[s * stride + k];
      sum += kSquared ? load(row[k]) * (v * v) : load(row[k]) * v;
    }
    sums[s] = sum;
  }
}

template <bool kSquared, class T>
void dots(const T* row, const float* vectors, int64_t stride, int64_t length, int64_t n, float* sums) {
  for (; n >= 4; n -= 4, vectors += 4 * stride, sums += 4) {
    dots_of<4, kSquared>(row, vectors, stride, length, sums);
  }
  for (; n > 0; --n, vectors += stride, ++sums) dots_of<1, kSquared>(row, vectors, stride, length, sums);
}

int64_t padded32(int64_t channels) { return (channels + 31) / 32 * 32; }

// Styles [begin, end) of the padded ones of a layer, for all samples.
void style_rows(const LayerStylesParams& p, const LayerStyle& layer, int64_t begin, int64_t end) {
  const float* w = p.ws + layer.w_index * p.w_dim;
  const int64_t padded = padded32(layer.channels);
  for (int64_t i = begin; i < end; ++i) {
    float sums[kMostStyleSamples] = {};
    const bool inside = i < layer.channels;
    if (inside && layer.weight_dtype == int64_t(DType::kF32)) {
      const float* row = static_cast<const float*>(layer.weight) + i * p.w_dim;
      dots<false>(row, w, p.num_ws * p.w_dim, p.w_dim, p.n, sums);
    } else if (inside) {
      const f16* row = static_cast<const f16*>(layer.weight) + i * p.w_dim;
      dots<false>(row, w, p.num_ws * p.w_dim, p.w_dim, p.n, sums);
    }
    const float bias = inside && layer.bias != nullptr ? float(layer.bias[i] * layer.bias_gain) : 0.f;
    for (int64_t n = 0; n < p.n; ++n) {
      const float style = inside ? sums[n] * float(layer.weight_gain) + bias : 0.f;
      float* to = layer.styles + n * layer.style_stride + i;
      if (layer.head == nullptr) {
        *to = style;
        continue;
      }
      for (int64_t k = 0; k < layer.out_channels; ++k) {
        const float head = inside ? layer.head[k * layer.channels + i] : 0.f;
        to[k * padded] = head * (style * float(layer.gain));
      }
    }
  }
}

void demod_rows(const LayerStylesParams& p, const LayerStyle& layer, int64_t begin, int64_t end) {
  const int64_t in = padded32(layer.channels), out = padded32(layer.out_channels);
  for (int64_t o = begin; o < end; ++o) {
    float sums[kMostStyleSamples];
    if (layer.squares_dtype == int64_t(DType::kF32)) {
      const float* row = static_cast<const float*>(layer.squares) + o * in;
      dots<true>(row, layer.styles, layer.style_stride, in, p.n, sums);
    } else {
      const bf16* row = static_cast<const bf16*>(layer.squares) + o * in;
      dots<true>(row, layer.styles, layer.style_stride, in, p.n, sums);
    }
    for (int64_t n = 0; n < p.n; ++n) {
      const double norm = __builtin_sqrt(double(sums[n]) + kEps);
      layer.demod[n * out + o] = o < layer.out_channels ? float(layer.gain / norm) : 0.f;
    }
  }
}

void scale_side(const LayerStyle& layer) {
  const int64_t out = layer.head == nullptr ? padded32(layer.out_channels) : layer.out_channels;
  for (int64_t o = 0; o < out; ++o) {
    layer.side_out[o] = o < layer.out_channels ? float(layer.side[o] * layer.side_gain) : 0.f;
  }
}

// body(layer, begin, end) over all rows that rows_of(layer) counts, shared among threads.
template <class Count, class Body>
void over_rows(const LayerStylesParams& p, int workers, const Count& rows_of, const Body& body) {
  int64_t all = 0;
  for (int64_t i = 0; i < p.count; ++i) all += rows_of(p.layers[i]);
  parallel_ranges(workers, all, kRowsAtOnce, [&](int, int64_t begin, int64_t end) {
    int64_t start = 0;
    for (int64_t i = 0; i < p.count; ++i) {
      const int64_t rows = rows_of(p.layers[i]);
      const int64_t from = begin > start ? begin - start : 0, to = end - start < rows ? end - start : rows;
      if (from < to) body(p.layers[i], from, to);
      start += rows;
    }
  });
}

}  // namespace

void layer_styles(const LayerStylesParams& p, int threads) {
  int64_t work = 0;
  for (int64_t i = 0; i < p.count; ++i) work += p.layers[i].channels * p.w_dim / 8;
  const int workers = worker_count(threads, work);
  for (int64_t i = 0; i < p.count; ++i) scale_side(p.layers[i]);
  over_rows(
      p, workers, [](const LayerStyle& layer) { return padded32(layer.channels); },
      [&](const LayerStyle& layer, int64_t begin, int64_t end) { style_rows(p, layer, begin, end); });
  over_rows(
      p, workers,
      [](const LayerStyle& layer) { return layer.head == nullptr ? padded32(layer.out_channels) : 0; },
      [&](const LayerStyle& layer, int64_t begin, int64_t end) { demod_rows(p, layer, begin, end); });
}

void fingerprint(const FingerprintParams& p, int) {
  typedef uint64_t Lanes __attribute__((vector_size(64), aligned(1), may_alias));
  constexpr int64_t kLine = 64, kMostApart = 1024, kFewestLines = 64;
  const char* data = static_cast<const char*>(p.data);
  const int64_t lines = p.bytes / kLine, few = lines / kFewestLines;
  const int64_t apart = few < 1 ? 1 : few < kMostApart ? few : kMostApart;
  Lanes h = {};
  // Odd factors, so that changes that are alike in all lines do not cancel; places that drift, so that they
  // are not all of the same column.
  for (int64_t i = 0, first = 0; first < lines; ++i, first += apart) {
    const int64_t line = first + i * 37 % apart;
    h = h * 0x9E3779B97F4A7C15ull +
        *reinterpret_cast<const Lanes*>(data + (line < lines ? line : first) * kLine);
  }
  uint64_t sum = uint64_t(p.bytes);
  for (int lane = 0; lane < 8; ++lane) sum = (sum ^ (sum >> 29)) * 0xBF58476D1CE4E5B9ull + h[lane];
  for (int64_t rest = p.bytes / kLine * kLine; rest < p.bytes; ++rest) {
    sum = sum * 0x100000001B3ull + static_cast<unsigned char>(data[rest]);
  }
  *p.result = sum;
}

}  // namespace pyface::PYFACE_ISA_NS
