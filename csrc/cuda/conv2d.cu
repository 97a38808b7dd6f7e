#include "kernels/conv2d.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_conv2d_cuda(const Conv2dParams& p, void* stream) {
  dev::run_conv2d(p, CudaLauncher("conv2d", stream));
}
Conv2dPlan plan_conv2d_cuda(const Conv2dParams& p, void* stream) {
  return dev::plan_conv2d(p, CudaLauncher("conv2d", stream));
}
void launch_conv2d_heads_cuda(const Conv2dParams& p, void* stream) {
  dev::run_conv2d_heads(p, CudaLauncher("conv2d_heads", stream));
}

}  // namespace pyface
