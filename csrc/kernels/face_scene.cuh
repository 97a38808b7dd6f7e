// What one face is: constants of one image, computed once from its parameter vector, and the curves of its
// features (lids, brows, lips) that drawing and landmarks share. Head space: x to image right, y up, z to the
// camera; one unit is about 9.4 cm; the eyes lie near y = 0.1, the chin near y = -1.1.
#pragma once
#include "kernels/face_vector.cuh"
#include "pyface/face_params.h"

namespace PYFACE_FACE_NS {

struct Ball {  // ellipsoid: centre and inverse radii
  float x, y, z, ix, iy, iz;
};
struct Rod {  // capsule: start, end - start, 1 / length^2, radius
  P3 a, ba;
  float inv, r;
};

struct Scene {
  // camera and pose: head = transpose(rot) * world
  float rot[9];
  P3 eye_point;  // camera in head space
  float half_view, camera_z, shift_x, shift_y;
  P3 pivot;
  // skull, face
  Ball skull, face, cheek, fat, chin, muzzle, ridge, socket, ear, concha, lobe;
  Rod jaw, neck;
  float ear_shear, ear_x;
  // nose
  Rod bridge;
  Ball tip, wing, nostril;
  float nose_y, nose_z, nose_w;
  // eyes: centre, opening half width, heights, tilt, eyeball radius; gaze direction
  float ex, ey, ez, ew, eup, elow, etilt, er;
  P3 gaze;
  float crease, lash;
  // brows
  float bx0, bx1, by, barch, bthick, bdensity, au1, au2, au4, au9, au6, au12;
  // mouth
  float mw, my, mlift, gap_up, gap_low, lip_up, lip_low, bulge_up, bulge_low, mouth_z, teeth_y, jaw_drop;
  // hair
  int hair_solid, hair_long, bald;
  float hair_y, hair_thick, hair_len, hair_end, recede, fringe, part, curl, bald_y, hair_alpha;
  Ball hair_back, hair_side, face_window;
  float hair_amp;
  // beard
  float beard, moustache, goatee, stubble, beard_thick;
  // body and clothes
  Ball torso;
  Rod shoulders;
  P3 body_neck;
  int clothes_kind;
  float pattern;
  P3 clothes;
  // glasses
  int glasses;
  float gx, gy, gz, gw, gh, gpow, gr, gtint;
  Rod temple, glass_bridge;
  P3 glass_colour;
  float glass_gloss;
  // surfaces, linear RGB
  P3 skin, skin_red, lip, brow_colour, hair, iris;
  float melanin, blood, freckles, gloss, age, sex, grey, lipstick, nir_skin, nir_hair, nir_iris;
  int seed;
  // light, in head space
  P3 key, second, rim, fill, up;
  P3 key_colour, second_colour, ambient_sky, ambient_ground;
  float rim_strength, fill_strength, shadow_k, exposure, nir_strength, nir_ambient;
  // background
  int bg_kind, bg_seed;
  P3 bg1, bg2;
};

PYFACE_FN Ball ball(float x, float y, float z, float rx, float ry, float rz) {
  return {x, y, z, 1.f / rx, 1.f / ry, 1.f / rz};
}
PYFACE_FN Rod rod(P3 a, P3 b, float r) {
  P3 ba = b - a;
  return {a, ba, 1.f / dot(ba, ba), r};
}
PYFACE_FN float linear_from_srgb(float c) {
  return c * (c * (c * 0.305306011f + 0.682171111f) + 0.012522878f);
}
PYFACE_FN float lerp(float a, float b, float t) { return a + (b - a) * t; }
PYFACE_FN P3 lerp3(P3 a, P3 b, float t) { return {lerp(a.x, b.x, t), lerp(a.y, b.y, t), lerp(a.z, b.z, t)}; }
// Piecewise linear through evenly spaced colours.
PYFACE_FN P3 palette(const P3* stops, int count, float t) {
  float f = vmin(vmax(t, 0.f), 1.f) * static_cast<float>(count - 1);
  int i = static_cast<int>(f);
  if (i > count - 2) i = count - 2;
  return lerp3(stops[i], stops[i + 1], f - static_cast<float>(i));
}
// World direction or point (rotation only) into head space.
PYFACE_FN P3 to_head(const Scene& s, P3 w) {
  return {s.rot[0] * w.x + s.rot[3] * w.y + s.rot[6] * w.z, s.rot[1] * w.x + s.rot[4] * w.y + s.rot[7] * w.z,
          s.rot[2] * w.x + s.rot[5] * w.y + s.rot[8] * w.z};
}
template <class F>
PYFACE_FN V3<F> to_world(const Scene& s, const V3<F>& q) {
  V3<F> p = {q.x - s.pivot.x, q.y - s.pivot.y, q.z - s.pivot.z};
  return {s.rot[0] * p.x + s.rot[1] * p.y + s.rot[2] * p.z + s.pivot.x,
          s.rot[3] * p.x + s.rot[4] * p.y + s.rot[5] * p.z + s.pivot.y,
          s.rot[6] * p.x + s.rot[7] * p.y + s.rot[8] * p.z + s.pivot.z};
}
PYFACE_FN P3 point_to_head(const Scene& s, P3 w) { return to_head(s, w - s.pivot) + s.pivot; }

// ---- curves. u runs along the feature; heights are y in head space.

// Eye: u = -1 inner corner, 1 outer corner.
template <class F>
PYFACE_FN F lid_upper(const Scene& s, F u) {
  F e = vmax(1.f - u * u, 0.f);
  F peak = 1.f - 0.16f * u;
  return s.ey + s.etilt * u + s.eup * peak * (0.45f * e + 0.55f * vsqrt(e));
}
template <class F>
PYFACE_FN F lid_lower(const Scene& s, F u) {
  F e = vmax(1.f - u * u, 0.f);
  F peak = 1.f + 0.14f * u;
  return s.ey + s.etilt * u - s.elow * peak * (0.6f * e + 0.4f * vsqrt(e));
}
// Brow: b = 0 inner end, 1 outer end.
template <class F>
PYFACE_FN F brow_line(const Scene& s, F b) {
  F c = clampf(b, -0.1f, 1.1f);
  F k = (c - 0.62f) * 1.6f;
  F inner = vmax(1.f - c * 1.15f, 0.f);
  F outer = clamp01((c - 0.25f) * 1.4f);
  return s.by + s.barch * (1.f - k * k) + s.au1 * 0.10f * inner * inner * (1.5f - 0.5f * inner) +
         s.au2 * 0.095f * outer * (1.6f - 0.6f * outer) - s.au4 * (0.035f + 0.055f * inner) -
         s.au9 * 0.045f * inner;
}
template <class F>
PYFACE_FN F brow_half_height(const Scene& s, F b) {
  F c = clamp01(b);
  return s.bthick * (0.78f + 0.42f * c * (1.f - c) * 2.f - 0.62f * c * c * c);
}
// Mouth: u = |x| / half width.
template <class F>
PYFACE_FN F mouth_line(const Scene& s, F u) {
  F v = vmin(u, 1.15f);
  return s.my + s.mlift * v * v - 0.006f * (1.f - v * v) + 0.008f * bell(sq(u * 5.f));
}
template <class F>
PYFACE_FN F lip_inner_upper(const Scene& s, F u) {
  F e = vmax(1.f - u * u, 0.f);
  return mouth_line(s, u) + s.gap_up * e * (1.2f - 0.2f * e);
}
template <class F>
PYFACE_FN F lip_inner_lower(const Scene& s, F u) {
  F e = vmax(1.f - u * u, 0.f);
  return mouth_line(s, u) - s.gap_low * e * (1.2f - 0.2f * e);
}
template <class F>
PYFACE_FN F lip_outer_upper(const Scene& s, F u) {
  F e = vmax(1.f - u * u, 0.f);
  F bow = 1.f - 0.24f * bell(sq(u * 4.5f)) + 0.06f * bell(sq((u - 0.28f) * 5.f));
  return lip_inner_upper(s, u) + s.lip_up * (0.55f * e + 0.45f * vsqrt(e)) * bow;
}
template <class F>
PYFACE_FN F lip_outer_lower(const Scene& s, F u) {
  F e = vmax(1.f - u * u, 0.f);
  return lip_inner_lower(s, u) - s.lip_low * (0.6f * e + 0.4f * vsqrt(e));
}

}  // namespace PYFACE_FACE_NS
