// Types shared by every kernel and launcher: element types, activations. No torch, no pybind11.
#pragma once
#include <cstdint>

namespace pyface {

// Codes are part of the binding contract: pyface/ops/_native.py uses the same numbers.
enum class DType : int { kF32 = 0, kF64 = 1, kBF16 = 2, kF16 = 3 };

enum class Act : int {
  kLinear = 0,
  kRelu = 1,
  kLrelu = 2,
  kTanh = 3,
  kSigmoid = 4,
  kElu = 5,
  kSelu = 6,
  kSoftplus = 7,
  kSwish = 8,
};

constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
constexpr double kSeluScale = 1.0507009873554804934193349852946;

inline int dtype_size(DType t) { return t == DType::kF64 ? 8 : t == DType::kF32 ? 4 : 2; }

}  // namespace pyface
