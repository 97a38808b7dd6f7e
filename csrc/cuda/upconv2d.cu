#include "kernels/upconv2d.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_upconv2d_cuda(const Upconv2dParams& p, void* stream) {
  dev::run_upconv2d(p, CudaLauncher("upconv2d", stream));
}
Upconv2dPlan plan_upconv2d_cuda(const Upconv2dParams& p, void* stream) {
  validate_sizes(p);
  return dev::plan_upconv2d(p, CudaLauncher("upconv2d", stream));
}

}  // namespace pyface
