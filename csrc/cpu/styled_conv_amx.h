// Products of the bfloat16 synthesis layers on AMX tiles: 2 x 16 positions by 2 x 16 output channels, 32
// input channels a step. Tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.
#pragma once
#include "cpu/styled_conv_vector.h"
#if defined(__AMX_BF16__)
#include <immintrin.h>

namespace pyface::PYFACE_ISA_NS {
namespace {

struct AmxProducts {
  using T = bf16;
  static constexpr int64_t kBlock = 32;
  static constexpr bool kTiledHeads = true;
  static constexpr int64_t kTileElements = 512;

  // Tiles are set up while one of these lives in a thread.
  struct Session {
    Session() {
      struct alignas(64) Configuration {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
      } configuration;
      for (int tile = 0; tile < 8; ++tile) {
        configuration.row_bytes[tile] = 64;
        configuration.rows[tile] = 16;
      }
      _tile_loadconfig(&configuration);
    }
    ~Session() { _tile_release(); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
  };

  // Order of one tap of a packed weight: [out / 16][in / 2][out 16][in 2].
  static int64_t weight_at(int64_t in, int64_t out) {
    return (out / 16) * kTileElements + (in / 2) * 32 + (out % 16) * 2 + in % 2;
  }

  template <int kTaps, int kTiles>
  static void multiply(const bf16* const* a, int64_t plane, const int64_t* offsets, const bf16* w,
                       int64_t blocks, float* const* c, int64_t stride) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTiles == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    const bf16 *a0 = a[0], *a1 = a[kTiles - 1];
    for (int64_t block = 0; block < blocks; ++block, a0 += plane, a1 += plane) {
#pragma GCC unroll 9
      for (int tap = 0; tap < kTaps; ++tap, w += 2 * kTileElements) {
        const int64_t offset = offsets[tap];
        _tile_loadd(4, a0 + offset, 64);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        fetch<kAhead, 0, 16>(w);
        _tile_loadd(7, w + kTileElements, 64);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (kTiles == 2) {
          _tile_loadd(5, a1 + offset, 64);
          fetch<kAhead, 16, 32>(w);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        } else {
          fetch<kAhead, 16, 32>(w);
        }
      }
    }
    _tile_stored(0, c[0], stride * 4);
    _tile_stored(1, c[0] + 16, stride * 4);
    if constexpr (kTiles == 2) {
      _tile_stored(2, c[1], stride * 4);
      _tile_stored(3, c[1] + 16, stride * 4);
    }
  }

  // sums [position 16][16] += values [position 16][in 32] * heads [in / 2][head 16][in 2].
  static void add_heads(const bf16* values, const bf16* heads, float* sums) {
    _tile_loadd(0, sums, 64);
    _tile_loadd(4, values, 64);
    _tile_loadd(6, heads, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stored(0, sums, 64);
  }

 private:
  static constexpr int64_t kAhead = 8 * 2 * kTileElements;  // weights are read once a pass, from the L2 cache

  template <int64_t kDistance, int kFrom, int kTo>
  static PYFACE_INLINE void fetch(const bf16* w) {
#pragma GCC unroll 16
    for (int line = kFrom; line < kTo; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(w + kDistance + line * 32), _MM_HINT_T0);
    }
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
#endif
