#include "kernels/channel_dot.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_channel_dot_emu(const ChannelDotParams& p, int schedule) {
  dev::run_channel_dot(p, EmuLauncher("channel_dot", schedule));
}
void launch_conv_epilogue_grad_emu(const ConvEpilogueGradParams& p, int schedule) {
  dev::run_conv_epilogue_grad(p, EmuLauncher("conv_epilogue_grad", schedule));
}

}  // namespace pyface
