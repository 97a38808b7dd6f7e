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

  // c[position][out] = sum over blocks and taps of a[block][position + offset[tap]][in] * w[in][out];
  // positions of c are `stride` floats apart. w: [block][tap] of tiles. next_a: activations of the next call,
  // which are fetched ahead: the lowest row alone, the others are in the L1 or L2 cache already. side(step)
  // is called once a step, blocks * taps times, between the tile instructions, which run beside it.
  template <int kTaps, int kTiles, class Side>
  static PYFACE_INLINE void multiply(const bf16* const* a, const bf16* const* next_a, int64_t plane,
                                     const int64_t* offsets, const bf16* w, int64_t blocks, float* const* c,
                                     int64_t stride, Side&& side) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTiles == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    const bf16 *a0 = a[0], *a1 = a[kTiles - 1];
    int64_t step = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      const bool last = block + 1 == blocks;
      const bf16* ahead0 = last ? next_a[0] : a0 + plane;
      const bf16* ahead1 = last ? next_a[kTiles - 1] : a1 + plane;
#pragma GCC unroll 9
      for (int tap = 0; tap < kTaps; ++tap, w += 2 * kTileElements) {
        const int64_t offset = offsets[tap];
        _tile_loadd(4, a0 + offset, 64);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + kTileElements, 64);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (kTiles == 2) {
          _tile_loadd(5, a1 + offset, 64);
          _tile_dpbf16ps(2, 5, 6);
          if (kTaps == 9 && tap == 6) fetch<0, 16>(ahead0 + offsets[7]);
          if (kTaps == 9 && tap == 7) fetch<0, 16>(ahead1 + offset);
          if (kTaps == 4 && tap == 0) fetch<0, 16>(ahead0 + offset);
          if (kTaps == 4 && tap == 1) fetch<0, 16>(ahead1 + offsets[0]);
          _tile_dpbf16ps(3, 5, 7);
        }
        side(step++);
      }
      a0 += plane;
      a1 += plane;
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
  // Brings lines [kFrom, kTo) of 64 bytes into the L1 cache.
  template <int kFrom, int kTo>
  static PYFACE_INLINE void fetch(const bf16* from) {
#pragma GCC unroll 16
    for (int line = kFrom; line < kTo; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(from + line * 32), _MM_HINT_T0);
    }
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
#endif
