#include "kernels/conv2d_weight_grad.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_conv2d_weight_grad_emu(const Conv2dWeightGradParams& p, int schedule) {
  dev::run_conv2d_weight_grad(p, EmuLauncher("conv2d_weight_grad", schedule));
}

}  // namespace pyface
