// Input checks of launchers. A failed check throws pyface::Error with op, argument, what came and what is
// allowed.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>

#include "pyface/types.h"

namespace pyface {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The text is built only when the check fails: the macro's third and fourth argument are not evaluated
// before.
[[noreturn]] inline void fail(const char* op, const char* argument, const std::string& got,
                              const std::string& allowed) {
  throw Error(std::string(op) + ": " + argument + " is " + got + "; allowed: " + allowed + ".");
}

}  // namespace pyface

#define PYFACE_CHECK(ok, op, argument, got, allowed)               \
  do {                                                             \
    if (!(ok)) ::pyface::fail((op), (argument), (got), (allowed)); \
  } while (0)

namespace pyface {

// The product of sizes; an Error when one is negative or the bytes of the product (16 an element) leave 63
// bits.
inline int64_t checked_count(const char* op, const char* argument, std::initializer_list<int64_t> sizes) {
  bool empty = false;
  for (int64_t size : sizes) {
    PYFACE_CHECK(size >= 0, op, argument, "a size of " + std::to_string(size), "sizes of 0 or more");
    empty = empty || size == 0;
  }
  if (empty) return 0;
  int64_t count = 1;
  for (int64_t size : sizes) {
    PYFACE_CHECK(size <= std::numeric_limits<int64_t>::max() / 16 / count, op, argument,
                 "larger than the address space", "sizes whose product in bytes fits 63 bits");
    count *= size;
  }
  return count;
}

inline void check_pointer(const char* op, const char* argument, const void* pointer) {
  PYFACE_CHECK(pointer != nullptr, op, argument, "a null pointer", "the address of a tensor");
}

inline void check_dtype(const char* op, DType dtype) {
  const int code = static_cast<int>(dtype);
  PYFACE_CHECK(code >= 0 && code <= 3, op, "dtype", std::to_string(code),
               "0 float32, 1 float64, 2 bfloat16, 3 float16");
}

inline void check_act(const char* op, Act act, double clamp) {
  const int code = static_cast<int>(act);
  PYFACE_CHECK(code >= 0 && code <= 8, op, "act", std::to_string(code),
               "0 linear, 1 relu, 2 lrelu, 3 tanh, 4 sigmoid, 5 elu, 6 selu, 7 softplus, 8 swish");
  PYFACE_CHECK(clamp == clamp, op, "clamp", "NaN", "a number; below 0 means none");
}

inline void check_int_range(const char* op, const char* argument, int64_t value, int64_t low, int64_t high) {
  PYFACE_CHECK(value >= low && value <= high, op, argument, std::to_string(value),
               std::to_string(low) + " to " + std::to_string(high));
}

}  // namespace pyface
