#include "kernels/face_render.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_face_render_emu(const FaceRenderParams& p, int schedule) {
  dev::run_face_render(p, EmuLauncher("face_render", schedule));
}

}  // namespace pyface
