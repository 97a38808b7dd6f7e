#include "kernels/upfirdn2d.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_upfirdn2d_emu(const Upfirdn2dParams& p, int schedule) {
  dev::run_upfirdn2d(p, EmuLauncher("upfirdn2d", schedule));
}

}  // namespace pyface
