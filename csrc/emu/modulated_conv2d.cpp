#include "kernels/modulated_conv2d.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_modulate_emu(const ModulateParams& p, int schedule) {
  dev::run_modulate(p, EmuLauncher("modulate", schedule));
}
void launch_demodulate_emu(const DemodulateParams& p, int schedule) {
  dev::run_demodulate(p, EmuLauncher("demodulate", schedule));
}
void launch_conv_epilogue_emu(const ConvEpilogueParams& p, int schedule) {
  dev::run_conv_epilogue(p, EmuLauncher("conv_epilogue", schedule));
}

}  // namespace pyface
