// Launches kernels on a CUDA stream. The tile choice of each op is a template over this or EmuLauncher.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace pyface {

inline std::string cuda_text(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

class CudaLauncher {
 public:
  CudaLauncher(const char* op, void* stream) : op_(op), stream_(static_cast<cudaStream_t>(stream)) {}

  // Elements that one launch may index.
  int64_t index_limit() const { return int64_t{1} << 31; }

  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }
  // 80 for compute capability 8.0.
  int capability() const {
    return attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
  }

  template <class... Parameters, class... Arguments>
  void operator()(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared,
                  const Arguments&... arguments) const {
    constexpr size_t kDefaultSharedBytes = 48 * 1024;
    if (shared > kDefaultSharedBytes) {
      check(
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "cudaFuncSetAttribute");
    }
    kernel<<<grid, threads, shared, stream_>>>(Parameters(arguments)...);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
      throw std::runtime_error(std::string(op_) + ": launch of " + name + " failed with " + cuda_text(error) +
                               " (grid " + text(grid) + ", block " + text(threads) + ", shared memory " +
                               std::to_string(shared) + " bytes)");
    }
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
  }
  static std::string text(const dim3& d) {
    return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z);
  }
  void check(cudaError_t error, const char* call) const {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // leave no error for the next call
    throw std::runtime_error(std::string(op_) + ": " + call + " failed with " + cuda_text(error));
  }

  const char* op_;
  cudaStream_t stream_;
};

}  // namespace pyface
