#include "kernels/upfirdn2d.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_upfirdn2d_cuda(const Upfirdn2dParams& p, void* stream) {
  dev::run_upfirdn2d(p, CudaLauncher("upfirdn2d", stream));
}

}  // namespace pyface
