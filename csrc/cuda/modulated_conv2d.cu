#include "kernels/modulated_conv2d.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_modulate_cuda(const ModulateParams& p, void* stream) {
  dev::run_modulate(p, CudaLauncher("modulate", stream));
}
void launch_demodulate_cuda(const DemodulateParams& p, void* stream) {
  dev::run_demodulate(p, CudaLauncher("demodulate", stream));
}
void launch_conv_epilogue_cuda(const ConvEpilogueParams& p, void* stream) {
  dev::run_conv_epilogue(p, CudaLauncher("conv_epilogue", stream));
}
void launch_pack_weight_cuda(const PackWeightParams& p, void* stream) {
  dev::run_pack_weight<true>(p, CudaLauncher("pack_weight", stream));
}
void launch_unpack_weight_cuda(const PackWeightParams& p, void* stream) {
  dev::run_pack_weight<false>(p, CudaLauncher("unpack_weight", stream));
}

}  // namespace pyface
