#include "cuda/device.h"

#include "cuda/launcher.h"

namespace pyface {

int cuda_device_count(std::string& why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  cudaGetLastError();  // leave no error for the next call
  why = cuda_text(error);
  return 0;
}

int cuda_runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return version;
}

}  // namespace pyface
