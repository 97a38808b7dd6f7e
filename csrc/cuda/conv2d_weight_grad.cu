#include "kernels/conv2d_weight_grad.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_conv2d_weight_grad_cuda(const Conv2dWeightGradParams& p, void* stream) {
  dev::run_conv2d_weight_grad(p, CudaLauncher("conv2d_weight_grad", stream));
}

}  // namespace pyface
