#include "kernels/bias_act.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_bias_act_emu(const BiasActParams& p, int schedule) {
  dev::run_bias_act(p, EmuLauncher("bias_act", schedule));
}
void launch_bias_act_grad_emu(const BiasActGradParams& p, int schedule) {
  dev::run_bias_act_grad(p, EmuLauncher("bias_act_grad", schedule));
}

}  // namespace pyface
