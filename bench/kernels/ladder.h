// The frame of a ladder on the CPU: sizes from the command line, random data, time, error, one JSON line a
// version.
#pragma once
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

// The compiler leaves the loops of such a function one element at a time, as they are written.
#define LADDER_SCALAR __attribute__((noinline, optimize("no-tree-vectorize")))
#define LADDER_LOOPS __attribute__((noinline))

namespace ladder {

// "name=number" arguments over the values that a ladder gives.
class Sizes {
 public:
  Sizes(int count, char** arguments, std::map<std::string, int64_t> values) : values_(std::move(values)) {
    values_.emplace("rounds", 9);
    for (int i = 1; i < count; ++i) {
      const std::string text = arguments[i];
      const size_t equal = text.find('=');
      const auto found = values_.find(text.substr(0, equal));
      if (equal == std::string::npos || found == values_.end()) refuse(text);
      char* end = nullptr;
      found->second = std::strtoll(text.c_str() + equal + 1, &end, 10);
      if (*end != '\0' || found->second < 1) refuse(text);
    }
  }
  int64_t operator[](const std::string& name) const { return values_.at(name); }

 private:
  [[noreturn]] void refuse(const std::string& text) const {
    std::string allowed;
    for (const auto& [name, value] : values_) allowed += " " + name + "=" + std::to_string(value);
    std::fprintf(stderr, "argument '%s'; allowed are whole numbers of 1 or more, as in:%s\n", text.c_str(),
                 allowed.c_str());
    std::exit(2);
  }
  std::map<std::string, int64_t> values_;
};

// Memory at the start of a page, each page of it touched.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : count_(count),
        data_(static_cast<T*>(std::aligned_alloc(4096, (count * sizeof(T) / 4096 + 1) * 4096))) {
    std::memset(static_cast<void*>(data_), 0, count * sizeof(T));
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }

 private:
  int64_t count_;
  T* data_;
};

// Even numbers in [low, high): xorshift64*, the same ones in every run (Vigna, 2016).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  float next(float low, float high) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    const auto bits = static_cast<uint32_t>((state_ * 0x2545F4914F6CDD1Du) >> 40);
    return low + (high - low) * static_cast<float>(bits) * 0x1p-24f;
  }
  template <class T>
  void fill(const Buffer<T>& to, float low, float high) {
    for (int64_t i = 0; i < to.size(); ++i) to[i] = static_cast<T>(next(low, high));
  }

 private:
  uint64_t state_;
};

// Every byte 255: not a number in any floating type.
template <class T>
void spoil(const Buffer<T>& buffer) {
  std::memset(static_cast<void*>(buffer.get()), 255, buffer.size() * sizeof(T));
}

// bfloat16 as its upper half of a float, rounded to nearest even.
inline float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return static_cast<uint16_t>(bits >> 16);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The largest distance of `count` values from the truth, relative to the largest truth; get(i) is value i.
template <class Get>
double max_error(const double* truth, int64_t count, const Get& get) {
  double off = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double distance = std::fabs(static_cast<double>(get(i)) - truth[i]);
    if (!(distance <= off)) off = distance;  // a NaN stays
    largest = std::max(largest, std::fabs(truth[i]));
  }
  return largest > 0 ? off / largest : off;
}

// One rung. run: does the work once. error: of what `run` left, against version 1 in double.
struct Version {
  std::string what;
  std::function<void()> run;
  std::function<double()> error;
  double allowed = 1e-5;
  bool shipped = false;
  std::string dtype = "float32";
  double bytes = 0;  // where they differ from the work's
};

// What is measured. bytes: every input read and every output written once. flops: 0 where nobody counts them.
// poison: spoils the memory of the results, so that a version which writes nothing is found out.
struct Work {
  std::string kernel, size;
  double bytes = 0, flops = 0;
  std::function<void()> poison = nullptr;
};

inline double thread_ms() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

inline std::string number(double value, bool known = true) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return known && std::isfinite(value) ? text : "null";
}

inline void print_line(const Work& work, size_t version, const Version& rung, double ms, double error) {
  const bool timed = ms > 0;
  const double bytes = rung.bytes > 0 ? rung.bytes : work.bytes;
  std::printf(
      "{\"kernel\": \"%s\", \"version\": %zu, \"what\": \"%s\", \"size\": \"%s\", \"dtype\": \"%s\", "
      "\"bytes\": %.0f, \"flops\": %.0f, \"ms\": %s, \"gb_per_s\": %s, \"gflop_per_s\": %s, "
      "\"max_error\": %s, \"allowed\": %s, \"shipped\": %s}\n",
      work.kernel.c_str(), version, rung.what.c_str(), work.size.c_str(), rung.dtype.c_str(), bytes,
      work.flops, number(ms, timed).c_str(), number(bytes / ms / 1e6, timed).c_str(),
      number(work.flops / ms / 1e6, timed && work.flops > 0).c_str(), number(error).c_str(),
      number(rung.allowed).c_str(), rung.shipped ? "true" : "false");
}

// Checks every version, then measures them: medians of the thread's processor time over interleaved rounds,
// the caches overwritten before each. Gives the exit status.
inline int climb(const Work& work, const std::vector<Version>& versions, int64_t rounds) {
  std::vector<double> errors;
  bool right = true;
  for (const Version& version : versions) {
    work.poison();
    version.run();
    errors.push_back(version.error());
    if (errors.back() <= version.allowed) continue;
    right = false;
    std::fprintf(stderr, "%s version %zu is off by %g; allowed is %g\n", work.kernel.c_str(), errors.size(),
                 errors.back(), version.allowed);
  }
  constexpr int64_t kEviction = int64_t{96} << 20;
  const Buffer<float> eviction(kEviction / 4);
  std::vector<std::vector<double>> times(versions.size());
  for (int64_t round = 0; round < rounds; ++round) {
    for (size_t turn = 0; turn < versions.size(); ++turn) {
      const size_t i = (turn + round) % versions.size();
      for (int64_t at = 0; at < eviction.size(); ++at) eviction[at] += 1.f;
      const double start = thread_ms();
      versions[i].run();
      times[i].push_back(thread_ms() - start);
    }
  }
  for (size_t i = 0; i < versions.size(); ++i) {
    print_line(work, i + 1, versions[i], median(times[i]), errors[i]);
  }
  return right ? 0 : 1;
}

}  // namespace ladder
