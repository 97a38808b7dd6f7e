// The frame of a ladder on a GPU: memory of the device, time between two events, one JSON line a version.
// Built by g++ instead of nvcc the same kernels run in the emulator: that shows whether they are right, and
// measures nothing. Without a GPU nothing runs, and every figure is null.
#pragma once
#include "kernels/device.cuh"
#include "ladder.h"
#ifdef __CUDACC__
#include "cuda/launcher.h"
#else
#include "emu/launcher.h"
#endif

namespace ladder {

using Half = __half;
inline double to_double(Half v) { return static_cast<double>(__half2float(v)); }

#ifdef __CUDACC__

inline void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, pyface::cuda_text(error).c_str());
  std::exit(1);
}
// Why nothing can run, or nothing.
inline std::string missing_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  return error != cudaSuccess ? pyface::cuda_text(error) : count == 0 ? "no device" : "";
}
inline pyface::CudaLauncher launcher(const char* kernel) { return {kernel, nullptr}; }
inline void* allocate(size_t bytes) {
  void* made = nullptr;
  must(cudaMalloc(&made, bytes), "cudaMalloc");
  return made;
}
inline void release(void* memory) { cudaFree(memory); }
inline void copy(void* to, const void* from, size_t bytes) {
  must(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
}
inline void fill_bytes(void* to, int value, size_t bytes) {
  must(cudaMemset(to, value, bytes), "cudaMemset");
}

#else

inline std::string missing_device() { return ""; }
inline pyface::EmuLauncher launcher(const char* kernel) { return {kernel, 2}; }
inline void* allocate(size_t bytes) { return std::aligned_alloc(256, (bytes / 256 + 1) * 256); }
inline void release(void* memory) { std::free(memory); }
inline void copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
inline void fill_bytes(void* to, int value, size_t bytes) { std::memset(to, value, bytes); }

#endif

// Memory of the device; none of it where there is no device.
template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(int64_t count)
      : count_(count),
        data_(missing_device().empty() ? static_cast<T*>(allocate(count * sizeof(T))) : nullptr) {}
  explicit DeviceBuffer(const Buffer<T>& from) : DeviceBuffer(from.size()) {
    if (data_) copy(data_, from.get(), from.size() * sizeof(T));
  }
  ~DeviceBuffer() {
    if (data_) release(data_);
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  T* get() const { return data_; }
  int64_t size() const { return count_; }
  void spoil() const { fill_bytes(data_, 255, count_ * sizeof(T)); }
  // The largest distance from the truth, relative to the largest truth.
  double max_error(const Buffer<double>& truth) const {
    const Buffer<T> here(count_);
    copy(here.get(), data_, count_ * sizeof(T));
    return ladder::max_error(truth.get(), count_, [&](int64_t i) { return to_double(here[i]); });
  }

 private:
  int64_t count_;
  T* data_;
};

#ifdef __CUDACC__
// Medians of the time between two events, the L2 cache overwritten before each sample; the launch hides
// behind that.
inline std::vector<double> device_times(const std::vector<Version>& versions, int64_t rounds) {
  constexpr int64_t kEviction = int64_t{256} << 20, kWarmup = 2;
  const DeviceBuffer<char> eviction(kEviction);
  std::vector<std::vector<double>> times(versions.size());
  cudaEvent_t first, last;
  must(cudaEventCreate(&first), "cudaEventCreate");
  must(cudaEventCreate(&last), "cudaEventCreate");
  for (int64_t round = 0; round < rounds + kWarmup; ++round) {
    for (size_t turn = 0; turn < versions.size(); ++turn) {
      const size_t i = (turn + round) % versions.size();
      must(cudaMemsetAsync(eviction.get(), static_cast<int>(round), kEviction, nullptr), "cudaMemsetAsync");
      must(cudaEventRecord(first, nullptr), "cudaEventRecord");
      versions[i].run();
      must(cudaEventRecord(last, nullptr), "cudaEventRecord");
      must(cudaEventSynchronize(last), versions[i].what.c_str());
      float ms = 0;
      must(cudaEventElapsedTime(&ms, first, last), "cudaEventElapsedTime");
      if (round >= kWarmup) times[i].push_back(ms);
    }
  }
  cudaEventDestroy(first);
  cudaEventDestroy(last);
  std::vector<double> medians;
  for (const auto& series : times) medians.push_back(median(series));
  return medians;
}
#endif

// Checks every version, then measures them. Gives the exit status.
inline int climb_on_device(const Work& work, const std::vector<Version>& versions,
                           [[maybe_unused]] int64_t rounds) {
  std::vector<double> errors(versions.size(), NAN), times(versions.size(), 0.0);
  const std::string missing = missing_device();
  bool right = true;
  if (missing.empty()) {
    for (size_t i = 0; i < versions.size(); ++i) {
      work.poison();
      versions[i].run();
      errors[i] = versions[i].error();
      if (errors[i] <= versions[i].allowed) continue;
      right = false;
      std::fprintf(stderr, "%s version %zu is off by %g; allowed is %g\n", work.kernel.c_str(), i + 1,
                   errors[i], versions[i].allowed);
    }
#ifdef __CUDACC__
    times = device_times(versions, rounds);
#else
    std::fprintf(stderr, "%s: not measured: an emulator has no speed\n", work.kernel.c_str());
#endif
  } else {
    std::fprintf(stderr, "%s: not measured: %s\n", work.kernel.c_str(), missing.c_str());
  }
  for (size_t i = 0; i < versions.size(); ++i) print_line(work, i + 1, versions[i], times[i], errors[i]);
  return right ? 0 : 1;
}

}  // namespace ladder
