// Element types of the CPU kernels and their conversions, branch free so that loops over them vectorise on
// every instruction set. Everything is in an anonymous namespace of the ISA: no symbol may be shared between
// the copies.
#pragma once
#include <cstdint>
#include <new>

#include "pyface/types.h"

#define PYFACE_INLINE inline __attribute__((always_inline))

namespace pyface::PYFACE_ISA_NS {
namespace {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// The type in which an element type is computed, and in which its side vectors are stored.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

PYFACE_INLINE uint32_t as_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}
PYFACE_INLINE float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

PYFACE_INLINE float load(float v) { return v; }
PYFACE_INLINE double load(double v) { return v; }
PYFACE_INLINE float load(bf16 v) { return as_float(static_cast<uint32_t>(v.bits) << 16); }
PYFACE_INLINE float load(f16 v) {
  const uint32_t magnitude = v.bits & 0x7fffu, sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  const float scaled = as_float(magnitude << 13) * 0x1p112f;  // right for normal and subnormal numbers
  const uint32_t finite = as_bits(scaled), special = 0x7f800000u | (magnitude << 13);
  return as_float((magnitude >= 0x7c00u ? special : finite) | sign);
}

// Round to nearest even; a NaN that comes from arithmetic stays NaN.
template <class T>
PYFACE_INLINE T store(Compute<T> v);
template <>
PYFACE_INLINE float store<float>(float v) {
  return v;
}
template <>
PYFACE_INLINE double store<double>(double v) {
  return v;
}
template <>
PYFACE_INLINE bf16 store<bf16>(float v) {
  // A computed NaN is quiet, so its upper half is a NaN; rounding it up could overflow into the sign.
  const uint32_t bits = as_bits(v), rounding = v == v ? 0x7fffu + ((bits >> 16) & 1u) : 0u;
  return {static_cast<uint16_t>((bits + rounding) >> 16)};
}
template <>
PYFACE_INLINE f16 store<f16>(float v) {
  const uint32_t bits = as_bits(v), magnitude = bits & 0x7fffffffu;
  // Normal: move the exponent bias from 127 to 15, then round; a carry beyond 65504 gives infinity by itself.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal: adding 1/2 puts the last bit of the result at 2^-24, so the addition rounds.
  const uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t half = magnitude >= 0x47800000u ? special : finite;
  return {static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u))};
}

// Calls body(T{}) with the element type of a dtype code.
template <class Body>
PYFACE_INLINE void with_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float{});
    case DType::kF64:
      return body(double{});
    case DType::kBF16:
      return body(bf16{});
    case DType::kF16:
      return body(f16{});
  }
}

// Memory for the duration of a kernel call, aligned to a cache line.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(
            static_cast<T*>(::operator new(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T), kAlign))) {
  }
  ~Scratch() { ::operator delete(data_, kAlign); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  T* data_;
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
