// What synthesis layers read, in the order in which they read it: packed weights, blocked activations, zeros.
#pragma once
#include "cpu/styled_conv_plan.h"
#include "cpu/styled_conv_vector.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

template <class Products>
void pack_weight_for(const PackStyledConvParams& p) {
  using T = typename Products::T;
  const float* from = static_cast<const float*>(p.weight);
  const int64_t block = Products::kBlock, in_blocks = padded_channels(p.in_channels) / block;
  T* to = static_cast<T*>(p.packed);
  for (int64_t group = 0; group < padded_channels(p.out_channels) / kOut; ++group) {
    for (int first = 0, taps; first < 9; first += taps) {
      taps = styled_phase_taps(p.up, first);
      const int64_t part = taps * kOut * block;
      for (int64_t in_block = 0; in_block < in_blocks; ++in_block, to += part * Products::kParts) {
        for (int tap = 0; tap < taps; ++tap) {
          const StyledTap t = styled_tap(p.up, first + tap);
          for (int64_t o = 0; o < kOut; ++o) {
            for (int64_t i = 0; i < block; ++i) {
              const int64_t out = group * kOut + o, in = in_block * block + i;
              const bool inside = out < p.out_channels && in < p.in_channels;
              const float v = inside ? from[(out * p.in_channels + in) * 9 + t.kernel_y * 3 + t.kernel_x] : 0;
              Products::store_weight(to + tap * kOut * block + Products::weight_at(i, o), part, v);
            }
          }
        }
      }
    }
  }
}

template <class Products>
void block_activations_for(const BlockActivationsParams& p) {
  using T = typename Products::T;
  const int64_t block = Products::kBlock, plane = blocked_positions(p.n, p.h, p.w) * block;
  const int64_t channels = padded_channels(p.c), area = p.h * p.w;
  const float *x = static_cast<const float*>(p.x), *scale = static_cast<const float*>(p.scale);
  T* y = static_cast<T*>(p.y);
  __builtin_memset(p.y, 0, channels / block * Products::kParts * plane * sizeof(T));
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t c = 0; c < p.c; ++c) {
      const float* from = x + ((p.shared ? 0 : n) * p.c + c) * area;
      const float s = scale[n * channels + c];
      T* to = y + c / block * Products::kParts * plane + ((n * (p.h + 1) + 1) * (p.w + 1) + 1) * block +
              c % block;
      for (int64_t i = 0; i < p.h; ++i) {
        for (int64_t j = 0; j < p.w; ++j) {
          Products::store_weight(to + (i * (p.w + 1) + j) * block, plane, from[i * p.w + j] * s);
        }
      }
    }
  }
}

// ---- y with its zeros: the row above, the column left, and what lies below and right

template <class Products>
void clear_borders(const StyledConvParams& p) {
  using T = typename Products::T;
  const int64_t h = p.out_h(), w = p.out_w(), plane = blocked_positions(p.y_batch, h, w) * Products::kBlock;
  const int64_t row = (w + 1) * Products::kBlock;
  for (int64_t block = 0; block < padded_channels(p.out_channels) / Products::kBlock * Products::kParts;
       ++block) {
    T* at = static_cast<T*>(p.y) + block * plane + p.y_first * (h + 1) * row;
    for (int64_t r = 0; r <= p.n * (h + 1); ++r) {
      __builtin_memset(at + r * row, 0, sizeof(T) * (r % (h + 1) == 0 ? row : Products::kBlock));
    }
    __builtin_memset(at + (p.n * (h + 1) + 1) * row, 0, sizeof(T) * Products::kBlock);
  }
}

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
