// Products of the synthesis layers on AMX tiles, which multiply bfloat16: 2 x 16 positions by 2 x 16 output
// channels, 32 input channels a step. Tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.
#pragma once
#include "cpu/styled_conv_vector.h"
#if defined(__AMX_BF16__)
#include <immintrin.h>

namespace pyface::PYFACE_ISA_NS {
namespace {

// kNumberParts = 1: numbers are bfloat16. 3: they are float32, each the sum of three bfloat16 numbers, which
// together have its 24 bits; of the products of two numbers the six largest parts are taken, what is left out
// is below 2^-24 of a product.
template <int kNumberParts>
struct AmxProducts {
  using T = bf16;
  static constexpr int64_t kBlock = 32;
  static constexpr int64_t kParts = kNumberParts, kSteps = kNumberParts == 1 ? 1 : 6;
  static constexpr bool kTiledHeads = true, kSplits = kNumberParts == 1;
  static constexpr int64_t kValues = 2 * kTile * kOut;
  static constexpr int64_t kTileElements = 512;
  // Parts of activations and weights that are multiplied, in an order that reads each part of a weight once.
  static constexpr int kActivationPart[6] = {0, 1, 2, 0, 1, 0}, kWeightPart[6] = {0, 0, 0, 1, 1, 2};

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
      __asm__ volatile("" : : "m"(configuration));  // GCC takes the next line to read eight bytes only
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

  // v as its parts, `plane` elements apart.
  static void store_weight(bf16* to, int64_t plane, float v) {
    for (int64_t part = 0; part < kParts; ++part) {
      to[part * plane] = pyface::PYFACE_ISA_NS::store<bf16>(v);
      v -= as_float(uint32_t(to[part * plane].bits) << 16);
    }
  }
  // 32 channels of one position of blocked activations; `plane` is the distance of their parts.
  static PYFACE_INLINE void store(bf16* to, int64_t plane, V16 low, V16 high) {
#pragma GCC unroll 3
    for (int64_t part = 0; part < kParts; ++part, to += plane) {
      const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
      *reinterpret_cast<__m512bh*>(to) = rounded;
      if (part + 1 == kParts) break;
      const __m512i bits = (__m512i)rounded;
      low -= (V16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(bits)), 16);
      high -= (V16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bits, 1)), 16);
    }
  }

  // c[position][out] = sum over blocks and taps of a[block][position + offset[tap]][in] * w[in][out];
  // positions of c are `stride` floats apart, parts of a `plane` elements. w: [block][part][tap] of tiles.
  // next_a: activations of the next call, which are fetched ahead: the lowest row alone, the others are in
  // the L1 or L2 cache already. side(step) is called once a step, blocks * kSteps * taps times, between the
  // tile instructions, which run beside it.
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
    constexpr int64_t kPartOfWeight = kTaps * 2 * kTileElements;
    const bf16 *from0 = a[0], *from1 = a[kTiles - 1];
    int64_t step = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      const bool last = block + 1 == blocks;
      const bf16* after0 = last ? next_a[0] : from0 + kParts * plane;
      const bf16* after1 = last ? next_a[kTiles - 1] : from1 + kParts * plane;
      for (int product = 0; product < kSteps; ++product) {
        const int64_t at = kActivationPart[product] * plane;
        const bf16 *a0 = from0 + at, *a1 = from1 + at;
        const bf16* weight = w + kWeightPart[product] * kPartOfWeight;
        const bool whole = product + 1 == kSteps;
        const int64_t then = whole ? 0 : kActivationPart[product + 1] * plane;
        const bf16* ahead0 = whole ? after0 : from0 + then;
        const bf16* ahead1 = whole ? after1 : from1 + then;
#pragma GCC unroll 9
        for (int tap = 0; tap < kTaps; ++tap, weight += 2 * kTileElements) {
          const int64_t offset = offsets[tap];
          _tile_loadd(4, a0 + offset, 64);
          _tile_loadd(6, weight, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_loadd(7, weight + kTileElements, 64);
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
      }
      from0 += kParts * plane;
      from1 += kParts * plane;
      w += kParts * kPartOfWeight;
    }
    _tile_stored(0, c[0], stride * 4);
    _tile_stored(1, c[0] + 16, stride * 4);
    if constexpr (kTiles == 2) {
      _tile_stored(2, c[1], stride * 4);
      _tile_stored(3, c[1] + 16, stride * 4);
    }
  }

  // c [position][out 32] = (or, where not `first`, +=) the products of one block with all nine taps; next_c:
  // the sums of the next call. Everything else as in multiply.
  template <int kTiles, class Side>
  static PYFACE_INLINE void accumulate(bool first, const bf16* const* a, const bf16* const* next_a,
                                       const int64_t* offsets, const bf16* weight, float* c,
                                       const float* next_c, Side&& side) {
    constexpr int64_t kStride = kOut * 4;
    float* c1 = c + kTile * kOut;
    if (first) {
      _tile_zero(0);
      _tile_zero(1);
      if constexpr (kTiles == 2) {
        _tile_zero(2);
        _tile_zero(3);
      }
    } else {
      _tile_loadd(0, c, kStride);
      _tile_loadd(1, c + 16, kStride);
      if constexpr (kTiles == 2) {
        _tile_loadd(2, c1, kStride);
        _tile_loadd(3, c1 + 16, kStride);
      }
    }
    const bf16 *a0 = a[0], *a1 = a[kTiles - 1];
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; ++tap, weight += 2 * kTileElements) {
      const int64_t offset = offsets[tap];
      _tile_loadd(4, a0 + offset, 64);
      _tile_loadd(6, weight, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, weight + kTileElements, 64);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kTiles == 2) {
        _tile_loadd(5, a1 + offset, 64);
        _tile_dpbf16ps(2, 5, 6);
        if (tap < 4 && !first) fetch<0, 16>(reinterpret_cast<const bf16*>(next_c + tap * 256));
        if (tap == 6) fetch<0, 16>(next_a[0] + offsets[7]);
        if (tap == 7) fetch<0, 16>(next_a[1] + offset);
        _tile_dpbf16ps(3, 5, 7);
      }
      side(tap);
    }
    _tile_stored(0, c, kStride);
    _tile_stored(1, c + 16, kStride);
    if constexpr (kTiles == 2) {
      _tile_stored(2, c1, kStride);
      _tile_stored(3, c1 + 16, kStride);
    }
  }

  // sums [position 16][16] += values [position 16][in 32] * heads [in / 2][head 16][in 2].
  static void add_heads(const bf16* values, const bf16* heads, float* sums) {
    _tile_loadd(0, sums, 64);
#pragma GCC unroll 6
    for (int product = 0; product < kSteps; ++product) {
      _tile_loadd(4, values + kActivationPart[product] * kValues, 64);
      _tile_loadd(6, heads + kWeightPart[product] * kTileElements, 64);
      _tile_dpbf16ps(0, 4, 6);
    }
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
