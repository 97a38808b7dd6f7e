#include "kernels/face_render.cuh"

#include "cuda/launcher.h"

namespace pyface {

void launch_face_render_cuda(const FaceRenderParams& p, void* stream) {
  dev::run_face_render(p, CudaLauncher("face_render", stream));
}

}  // namespace pyface
