#include "kernels/conformance.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_conformance_cuda(const ConformanceParams& p, void* stream) {
  dev::run_conformance(p, CudaLauncher("conformance", stream));
}

}  // namespace pyface
