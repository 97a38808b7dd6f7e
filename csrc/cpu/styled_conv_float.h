// Products of the float32 synthesis layers: sixteen positions by 32 output channels, kept in registers.
#pragma once
#include "cpu/styled_conv_vector.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kPositionsAtOnce = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8, kPositionsAtOnce = 4;
#else
constexpr int kLanes = 4, kPositionsAtOnce = 4;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * 4), may_alias));

struct FloatProducts {
  using T = float;
  static constexpr int64_t kBlock = 16;             // channels of a block of activations
  static constexpr int64_t kParts = 1, kSteps = 1;  // parts of a number, products of the parts of two
  static constexpr int64_t kValues = 0;             // distance of the parts of values for the heads
  static constexpr bool kTiledHeads = false, kSplits = false;
  struct Session {};  // nothing to set up in a thread

  // Order of one tap of a packed weight: [in 16][out 32].
  static int64_t weight_at(int64_t in, int64_t out) { return in * kOut + out; }
  static void store_weight(float* to, int64_t, float v) { *to = v; }

  // 32 channels of one position of blocked activations; `plane` is the distance of blocks.
  static PYFACE_INLINE void store(float* to, int64_t plane, V16 low, V16 high) {
    *reinterpret_cast<V16*>(to) = low;
    *reinterpret_cast<V16*>(to + plane) = high;
  }

  // c[position][out] = sum over blocks and taps of a[block][position + offset[tap]][in] * w[in][out];
  // positions of c are `stride` floats apart. w: [block][tap][in 16][out 32]. side(step) is called
  // blocks * taps times.
  template <int kTaps, int kTiles, class Side>
  static void multiply(const float* const* a, const float* const*, int64_t plane, const int64_t* offsets,
                       const float* w, int64_t blocks, float* const* c, int64_t stride, Side&& side) {
    for (int64_t step = 0; step < blocks * kTaps; ++step) side(step);
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int first = 0; first < kTile; first += kPositionsAtOnce) {
        for (int out = 0; out < kOut; out += 2 * kLanes) {
          piece<kTaps>(a[tile] + first * kBlock, plane, offsets, w + out, blocks,
                       c[tile] + first * stride + out, stride);
        }
      }
    }
  }

 private:
  template <int kTaps>
  static PYFACE_INLINE void piece(const float* a, int64_t plane, const int64_t* offsets, const float* w,
                                  int64_t blocks, float* c, int64_t stride) {
    Lanes sums[kPositionsAtOnce][2] = {};
    for (int64_t block = 0; block < blocks; ++block) {
      for (int tap = 0; tap < kTaps; ++tap, w += kBlock * kOut) {
        const float* from = a + block * plane + offsets[tap];
#pragma GCC unroll 4
        for (int in = 0; in < kBlock; ++in) {
          const Lanes w0 = *reinterpret_cast<const Lanes*>(w + in * kOut);
          const Lanes w1 = *reinterpret_cast<const Lanes*>(w + in * kOut + kLanes);
#pragma GCC unroll 16
          for (int m = 0; m < kPositionsAtOnce; ++m) {
            const float v = from[m * kBlock + in];
            sums[m][0] += w0 * v;
            sums[m][1] += w1 * v;
          }
        }
      }
    }
    for (int m = 0; m < kPositionsAtOnce; ++m) {
      *reinterpret_cast<Lanes*>(c + m * stride) = sums[m][0];
      *reinterpret_cast<Lanes*>(c + m * stride + kLanes) = sums[m][1];
    }
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
