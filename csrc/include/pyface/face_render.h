// face_render: a signed-distance-field face renderer: VIS, NIR, segmentation, depth and landmarks.
#pragma once
#include "pyface/types.h"

namespace pyface {

// params: float32 [n, kFaceParamCount], see face_params.h for names, limits and defaults.
// Outputs, each may be null: vis uint8 [n, size, size, 3], nir uint8 [n, size, size], segmentation uint8
// [n, size, size] (classes in face_params.h), depth float32 [n, size, size] (distance from the camera plane in head
// units, +inf where nothing is hit), landmarks float32 [n, 73, 2] in pixels (x right, y down, pixel centres at +0.5):
// 68 iBUG points, then 5 points (left eye, right eye, nose tip, left and right mouth corner; image-left first).
struct FaceRenderParams {
  const float* params;
  uint8_t* vis;
  uint8_t* nir;
  uint8_t* segmentation;
  float* depth;
  float* landmarks;
  int64_t n;
  int size;
};

void launch_face_render_cpu(const FaceRenderParams& p, int threads);
void launch_face_render_cuda(const FaceRenderParams& p, void* stream);
void launch_face_render_emu(const FaceRenderParams& p, int schedule);

}  // namespace pyface
