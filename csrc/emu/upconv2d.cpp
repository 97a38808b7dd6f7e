#include "kernels/upconv2d.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_upconv2d_emu(const Upconv2dParams& p, int schedule) {
  dev::run_upconv2d(p, EmuLauncher("upconv2d", schedule));
}
Upconv2dPlan plan_upconv2d_emu(const Upconv2dParams& p, int schedule) {
  validate_sizes(p);
  return dev::plan_upconv2d(p, EmuLauncher("upconv2d", schedule));
}

}  // namespace pyface
