// The image that the heads of a layer make: what is added to it or done with it outside the products.
#pragma once
#include "cpu/styled_conv_layer.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

// Columns [begin, end) of row `y` of `below` [h, w] enlarged twice, begin even. The filter [1, 3, 3, 1] along
// an axis: y[2 i] = (x[i - 1] + 3 x[i]) / 4, y[2 i + 1] = (3 x[i] + x[i + 1]) / 4, zeros outside.
inline void enlarged_row(const float* below, int64_t h, int64_t w, int64_t y, int64_t begin, int64_t end,
                         float* to) {
  constexpr int64_t kPiece = 128;
  const int64_t near = y / 2, far = y % 2 ? near + 1 : near - 1;
  const float* a = below + near * w;
  const float* b = far >= 0 && far < h ? below + far * w : nullptr;
  const auto blended = [&](int64_t j) { return b ? 0.75f * a[j] + 0.25f * b[j] : 0.75f * a[j]; };
  float row[kPiece + 2];
  for (int64_t first = begin / 2; first < end / 2; first += kPiece) {
    const int64_t count = end / 2 - first < kPiece ? end / 2 - first : kPiece;
    row[0] = first > 0 ? blended(first - 1) : 0.f;
    if (b != nullptr) {
      for (int64_t j = 0; j < count; ++j) row[j + 1] = 0.75f * a[first + j] + 0.25f * b[first + j];
    } else {
      for (int64_t j = 0; j < count; ++j) row[j + 1] = 0.75f * a[first + j];
    }
    row[count + 1] = first + count < w ? blended(first + count) : 0.f;
    float* out = to + 2 * first - begin;
    for (int64_t j = 0; j < count; ++j) {
      out[2 * j] = 0.25f * row[j] + 0.75f * row[j + 1];
      out[2 * j + 1] = 0.75f * row[j + 1] + 0.25f * row[j + 2];
    }
  }
}

// Before the products (after = false): image = head_bias, + the enlarged image below where nothing is
// clamped. After them: image = clamp(image) + the enlarged image below.
inline void image_rows(const StyledConvParams& p, bool after, int64_t begin, int64_t end) {
  constexpr int64_t kPiece = 256;
  const int64_t h = p.in_h, w = p.in_w;
  const bool enlarges = p.below != nullptr && after == (p.clamp >= 0);
  float above[kPiece] = {};
  for (int64_t row = begin; row < end; ++row) {
    const int64_t plane = row / h, y = row % h;
    float* image = static_cast<float*>(p.image) + row * w;
    const float* below = static_cast<const float*>(p.below) + (enlarges ? plane * (h / 2) * (w / 2) : 0);
    const float bias = static_cast<const float*>(p.head_bias)[plane % p.head_channels],
                limit = float(p.clamp);
    for (int64_t x = 0; x < w; x += kPiece) {
      const int64_t count = w - x < kPiece ? w - x : kPiece;
      if (enlarges) enlarged_row(below, h / 2, w / 2, y, x, x + count, above);
      if (after) {
        for (int64_t i = 0; i < count; ++i) {
          const float v = image[x + i], low = v < -limit ? -limit : v;
          image[x + i] = (low > limit ? limit : low) + above[i];
        }
      } else {
        for (int64_t i = 0; i < count; ++i) image[x + i] = bias + above[i];
      }
    }
  }
}

inline void image_pass(const StyledConvParams& p, int workers, bool after) {
  if (p.heads == nullptr || (after && p.clamp < 0)) return;
  parallel_ranges(workers, p.n * p.head_channels * p.in_h, 1,
                  [&](int, int64_t begin, int64_t end) { image_rows(p, after, begin, end); });
}

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
