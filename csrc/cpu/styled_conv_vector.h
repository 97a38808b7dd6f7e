// Sixteen floats at a time on every instruction set, and the passes of a synthesis layer written in them.
#pragma once
#include "cpu/parallel.h"
#include "cpu/scalar.h"
#include "pyface/styled_conv.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace pyface::PYFACE_ISA_NS {
namespace {

typedef float V16 __attribute__((vector_size(64), may_alias));
typedef float V16Unaligned __attribute__((vector_size(64), may_alias, aligned(4)));
constexpr int64_t kOut = kStyledChannels;  // output channels that are computed together
constexpr int64_t kTile = 16;              // positions that are computed together

PYFACE_INLINE V16 load16(const float* from) { return *reinterpret_cast<const V16*>(from); }
PYFACE_INLINE V16 load16_unaligned(const float* from) { return *reinterpret_cast<const V16Unaligned*>(from); }
PYFACE_INLINE void store16_unaligned(float* to, V16 v) { *reinterpret_cast<V16Unaligned*>(to) = v; }
PYFACE_INLINE V16 splat(float v) { return V16{} + v; }

#if defined(__AVX512F__)
PYFACE_INLINE V16 larger(V16 a, V16 b) { return (V16)_mm512_max_ps((__m512)a, (__m512)b); }
PYFACE_INLINE V16 smaller(V16 a, V16 b) { return (V16)_mm512_min_ps((__m512)a, (__m512)b); }
PYFACE_INLINE float sum16(V16 v) { return _mm512_reduce_add_ps((__m512)v); }
#else
PYFACE_INLINE V16 larger(V16 a, V16 b) { return a > b ? a : b; }
PYFACE_INLINE V16 smaller(V16 a, V16 b) { return a < b ? a : b; }
PYFACE_INLINE float sum16(V16 v) {
  typedef float V8 __attribute__((vector_size(32)));
  typedef float V4 __attribute__((vector_size(16)));
  V8 a, b;
  __builtin_memcpy(&a, &v, 32);
  __builtin_memcpy(&b, reinterpret_cast<const char*>(&v) + 32, 32);
  a += b;
  V4 c, d;
  __builtin_memcpy(&c, &a, 16);
  __builtin_memcpy(&d, reinterpret_cast<const char*>(&a) + 16, 16);
  c += d;
  return (c[0] + c[2]) + (c[1] + c[3]);
}
#endif

// lrelu and clamp of a layer: max(v, alpha v) for 0 <= alpha <= 1.
struct Rectify {
  V16 alpha, limit;
  bool clamps;  // beside tiles, two instructions less are 2 % of a synthesis
  Rectify(double slope, double clamp)
      : alpha(splat(float(slope))), limit(splat(float(clamp))), clamps(clamp >= 0) {}
  PYFACE_INLINE V16 operator()(V16 v) const {
    v = larger(v, v * alpha);
    return clamps ? smaller(larger(v, -limit), limit) : v;
  }
};

// Where a position of a blocked tensor lies in its image.
struct Place {
  int64_t n, y, x;
};

// The side tensors of one layer, for one block of output channels at a time.
struct Sides {
  const float *demod, *noise, *bias, *style;
  float noise_scale;
  int64_t channels, h, w, noise_stride;

  explicit Sides(const StyledConvParams& p)
      : demod(static_cast<const float*>(p.demod)),
        noise(static_cast<const float*>(p.noise)),
        bias(static_cast<const float*>(p.bias)),
        style(static_cast<const float*>(p.next_style)),
        noise_scale(float(p.noise_gain) *
                    (p.noise_strength ? *static_cast<const float*>(p.noise_strength) : 1)),
        channels(padded_channels(p.out_channels)),
        h(p.out_h()),
        w(p.out_w()),
        noise_stride(p.noise_per_sample ? h * w : 0) {}

  PYFACE_INLINE const float* noise_row(int64_t n, int64_t y) const {
    return noise == nullptr ? nullptr : noise + n * noise_stride + y * w;
  }
};

// Two rows of the output of an up-convolution from five rows of the transposed convolution's: the filter
// [1, 3, 3, 1] is [1, 1] three times over, along both axes; its scale is in demod.
template <class T>
struct FilteredRows {
  const float* rows[5];  // 2 w + 2 positions of 32 channels, the last one zero
  const float *demod, *bias, *style, *noise[2];
  float noise_scale;
  T* y[2];
};

// [1, 1] three times over a row, from left to right.
struct BoxState {
  V16 v{}, a{}, b{};
  PYFACE_INLINE V16 next(V16 now) {
    const V16 a_now = now + v, b_now = a_now + a, c = b_now + b;
    v = now;
    a = a_now;
    b = b_now;
    return c;
  }
};

// The state between pieces of the same rows.
struct FilterState {
  BoxState top[2], bottom[2];
};

// Columns [begin, end) of 2 w + 2 of the transposed convolution's rows.
template <class Products, class T = typename Products::T>
inline void filter_columns(const FilteredRows<T>& f, FilterState& kept, int64_t begin, int64_t end,
                           int64_t plane, const Rectify& rectify) {
  BoxState top[2] = {kept.top[0], kept.top[1]}, bottom[2] = {kept.bottom[0], kept.bottom[1]};
  constexpr int64_t kBlock = Products::kBlock;
  for (int64_t j = begin; j < end; ++j) {
    V16 upper[2], lower[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const int64_t at = j * kOut + half * 16;
      const V16 r0 = load16(f.rows[0] + at), r1 = load16(f.rows[1] + at), r2 = load16(f.rows[2] + at);
      const V16 r3 = load16(f.rows[3] + at), r4 = load16(f.rows[4] + at);
      const V16 s12 = r1 + r2, s23 = r2 + r3, t123 = s12 + s23;
      upper[half] = top[half].next((r0 + r1) + s12 + t123);
      lower[half] = bottom[half].next(t123 + (s23 + (r3 + r4)));
    }
    if (j < 2) continue;
    const int64_t x = j - 2;
    const float upper_noise = f.noise[0] == nullptr ? 0.f : f.noise[0][x] * f.noise_scale;
    const float lower_noise = f.noise[1] == nullptr ? 0.f : f.noise[1][x] * f.noise_scale;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const V16 demod = load16_unaligned(f.demod + half * 16), bias = load16_unaligned(f.bias + half * 16);
      const V16 style = load16_unaligned(f.style + half * 16);
      upper[half] = rectify(upper[half] * demod + (bias + upper_noise)) * style;
      lower[half] = rectify(lower[half] * demod + (bias + lower_noise)) * style;
    }
    Products::store(f.y[0] + x * kBlock, plane, upper[0], upper[1]);
    Products::store(f.y[1] + x * kBlock, plane, lower[0], lower[1]);
  }
  for (int half = 0; half < 2; ++half) {
    kept.top[half] = top[half];
    kept.bottom[half] = bottom[half];
  }
}

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
