// conformance: one warp runs one hardware primitive on given bytes, so that a GPU and the emulator can be
// compared bit for bit.
#pragma once
#include "pyface/check.h"

namespace pyface {

// Inputs and outputs, in this order, without gaps:
//   kMmaF16, kMmaBF16   A 16x16 row-major and B 8x16 (one row per column of the product), 16-bit; C 16x8
//   float32
//                       -> D = A * B^T + C, 16x8 float32
//   kLdmatrix, kLdmatrixTrans   four 8x8 matrices of 16-bit elements -> uint32 [32 lanes, 4]
//   kShuffles           float32 [32] -> float32 [4, 32]: lane ^ 5, lane (7 * lane) % 32, lane + 3, lane - 2
//   kAsyncCopy          uint8 [32, 16] -> uint8 [32, 16]: row r keeps its first 4 * (r % 5) bytes, the rest
//   is 0
enum class Primitive : int { kMmaF16, kMmaBF16, kLdmatrix, kLdmatrixTrans, kShuffles, kAsyncCopy };
constexpr int kPrimitiveCount = 6;

struct ConformanceParams {
  Primitive primitive;
  const void* input;
  void* output;
};

inline int conformance_input_bytes(Primitive p) {
  return p <= Primitive::kMmaBF16    ? 16 * 16 * 2 + 8 * 16 * 2 + 16 * 8 * 4
         : p == Primitive::kShuffles ? 128
                                     : 512;
}
inline int conformance_output_bytes(Primitive) { return 512; }

inline void validate(const ConformanceParams& p) {
  check_int_range("conformance", "primitive", static_cast<int>(p.primitive), 0, kPrimitiveCount - 1);
  check_pointer("conformance", "input", p.input);
  check_pointer("conformance", "output", p.output);
}

void launch_conformance_cuda(const ConformanceParams& p, void* stream);
void launch_conformance_emu(const ConformanceParams& p, int schedule);

}  // namespace pyface
