#include "kernels/bias_act.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_bias_act_cuda(const BiasActParams& p, void* stream) {
  dev::run_bias_act(p, CudaLauncher("bias_act", stream));
}
void launch_bias_act_grad_cuda(const BiasActGradParams& p, void* stream) {
  dev::run_bias_act_grad(p, CudaLauncher("bias_act_grad", stream));
}

}  // namespace pyface
