#include "kernels/conv2d.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_conv2d_emu(const Conv2dParams& p, int schedule) {
  dev::run_conv2d(p, EmuLauncher("conv2d", schedule));
}
Conv2dPlan plan_conv2d_emu(const Conv2dParams& p, int schedule) {
  return dev::plan_conv2d(p, EmuLauncher("conv2d", schedule));
}
void launch_conv2d_heads_emu(const Conv2dParams& p, int schedule) {
  dev::run_conv2d_heads(p, EmuLauncher("conv2d_heads", schedule));
}

}  // namespace pyface
