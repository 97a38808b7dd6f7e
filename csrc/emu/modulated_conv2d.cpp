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
void launch_pack_weight_emu(const PackWeightParams& p, int schedule) {
  dev::run_pack_weight<true>(p, EmuLauncher("pack_weight", schedule));
}
void launch_unpack_weight_emu(const PackWeightParams& p, int schedule) {
  dev::run_pack_weight<false>(p, EmuLauncher("unpack_weight", schedule));
}

}  // namespace pyface
