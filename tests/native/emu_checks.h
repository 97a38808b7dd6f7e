// What the programs that test kernels in the emulator share: exactly sized buffers, random numbers, checks
// against doubles, and main.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "emu/launcher.h"
#include "kernels/device.cuh"

namespace pyface::checks {

inline int checks = 0, failures = 0;

inline void expect(bool ok, const std::string& what) {
  checks++;
  if (ok) return;
  failures++;
  std::printf("FAIL %s\n", what.c_str());
}

// ---- buffers: exactly sized, so that AddressSanitizer sees every overrun

template <class T>
constexpr DType dtype_of() {
  if (std::is_same_v<T, float>) return DType::kF32;
  if (std::is_same_v<T, double>) return DType::kF64;
  return std::is_same_v<T, __half> ? DType::kF16 : DType::kBF16;
}
template <class T>
double tolerance() {
  if (std::is_same_v<T, double>) return 1e-12;
  if (std::is_same_v<T, float>) return 2e-6;
  return std::is_same_v<T, __half> ? 1e-3 : 8e-3;
}

template <class T>
struct Buffer {
  size_t size;
  T* data;
  explicit Buffer(size_t n) : size(n), data(nullptr) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, n * sizeof(T))) std::abort();
    data = static_cast<T*>(memory);
    std::memset(memory, 0xff, n * sizeof(T));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
  double operator[](size_t i) const { return static_cast<double>(dev::widen(data[i])); }
};

inline uint32_t state = 12345;
inline double uniform() {
  state = state * 1664525u + 1013904223u;
  return static_cast<double>(state >> 8) / (1 << 24) * 2 - 1;
}
template <class T>
void fill(Buffer<T>& b) {
  for (size_t i = 0; i < b.size; i++) b.data[i] = dev::narrow<T>(dev::Accumulator<T>(uniform()));
}

template <class T>
void expect_close(const Buffer<T>& y, const std::vector<double>& truth, const std::string& what,
                  double tolerances = 1) {
  double error = 0, scale = 1e-3;
  bool nan = false;
  for (size_t i = 0; i < y.size; i++) {
    nan = nan || y[i] != y[i];
    error = std::fmax(error, std::fabs(y[i] - truth[i]));
    scale = std::fmax(scale, std::fabs(truth[i]));
  }
  expect(!nan && error <= tolerances * tolerance<T>() * scale,
         what + (nan ? ": NaN" : ": error " + std::to_string(error)));
}

// Expects `f` to throw an error whose message has `text` in it.
template <class F>
void expect_error(const std::string& text, F&& f) {
  std::string said = "nothing";
  try {
    f();
  } catch (const std::exception& error) {
    said = error.what();
  }
  expect(said.find(text) != std::string::npos, "expected '" + text + "', got '" + said + "'");
}

// ---- activations

inline double act_of(Act act, double v, double alpha) {
  switch (act) {
    case Act::kRelu:
      return v > 0 ? v : 0;
    case Act::kLrelu:
      return v > 0 ? v : v * alpha;
    case Act::kTanh:
      return std::tanh(v);
    case Act::kSwish:
      return v / (1 + std::exp(-v));
    default:
      return v;
  }
}

// Runs one of the two; prints the counts and returns the exit status.
inline int run_checks(int argc, char** argv, void (*run_all)(), void (*run_race)()) {
  const std::string mode = argc > 1 ? argv[1] : "all";
  try {
    mode == "race" ? run_race() : run_all();
  } catch (const std::exception& error) {
    std::printf("FAIL %s\n", error.what());
    failures++;
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}

}  // namespace pyface::checks
