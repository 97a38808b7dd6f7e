// face_render: a signed-distance-field face renderer: VIS, NIR, segmentation, depth and landmarks.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

// params: float32 [n, kFaceParamCount], see face_params.h for names, limits and defaults.
// Outputs, each may be null: vis uint8 [n, size, size, 3], nir uint8 [n, size, size], segmentation uint8
// [n, size, size] (classes in face_params.h), depth float32 [n, size, size] (distance from the camera plane
// in head units, +inf where nothing is hit), landmarks float32 [n, 73, 2] in pixels (x right, y down, pixel
// centres at +0.5): 68 iBUG points, then 5 points (left eye, right eye, nose tip, left and right mouth
// corner; image-left first).
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

constexpr int kFaceMinSize = 16, kFaceMaxSize = 1024;

inline void validate(const FaceRenderParams& p) {
  const char* op = "face_render";
  check_int_range(op, "size", p.size, kFaceMinSize, kFaceMaxSize);
  if (checked_count(op, "params", {p.n, int64_t{p.size} * p.size}) == 0) return;
  check_pointer(op, "params", p.params);
}

void launch_face_render_cpu(const FaceRenderParams& p, int threads);
void launch_face_render_cuda(const FaceRenderParams& p, void* stream);
void launch_face_render_emu(const FaceRenderParams& p, int schedule);

}  // namespace pyface
