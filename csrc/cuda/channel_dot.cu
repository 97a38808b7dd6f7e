#include "kernels/channel_dot.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_channel_dot_cuda(const ChannelDotParams& p, void* stream) {
  dev::run_channel_dot(p, CudaLauncher("channel_dot", stream));
}
void launch_conv_epilogue_grad_cuda(const ConvEpilogueGradParams& p, void* stream) {
  dev::run_conv_epilogue_grad(p, CudaLauncher("conv_epilogue_grad", stream));
}

}  // namespace pyface
