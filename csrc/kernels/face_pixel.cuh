// One ray per lane: sphere tracing, normals, shadow, light, and the finished VIS and NIR value of a sample.
#pragma once
#include "kernels/face_shade.cuh"

namespace PYFACE_FACE_NS {

// A pixel is refined when its class or its brightness (0..255) differs from a neighbour's; then by these
// offsets.
constexpr int kEdgeLight = 20;
#ifdef __CUDACC__
#define PYFACE_FACE_TABLE static __device__ const
#else
#define PYFACE_FACE_TABLE static const
#endif
PYFACE_FACE_TABLE float kSubX[4] = {-0.375f, 0.125f, 0.375f, -0.125f};
PYFACE_FACE_TABLE float kSubY[4] = {-0.125f, -0.375f, 0.125f, 0.375f};

template <class F>
struct Sample {
  V3<F> vis;  // linear, 0..1
  F nir;      // linear, 0..1
  F label, depth;
};

template <class F>
struct Ray {
  V3<F> origin, dir;
  F slope;  // distance along the ray per unit of depth
};

// Image coordinates -1..1 (x right, y up) to a ray in head space.
template <class F>
PYFACE_FN Ray<F> camera_ray(const Scene& s, F x, F y) {
  F wx = (x - s.shift_x) * s.half_view, wy = (y + s.shift_y) * s.half_view;
  F len = vsqrt(wx * wx + wy * wy + 1.f), inv = 1.f / len;
  F dx = wx * inv, dy = wy * inv;
  Ray<F> r;
  r.origin = splat3<F>(s.eye_point);
  r.dir = {s.rot[0] * dx + s.rot[3] * dy - s.rot[6] * inv, s.rot[1] * dx + s.rot[4] * dy - s.rot[7] * inv,
           s.rot[2] * dx + s.rot[5] * dy - s.rot[8] * inv};
  r.slope = len;
  return r;
}

template <class F>
PYFACE_FN auto trace(const Scene& s, const Ray<F>& r, F& t) {
  t = splat<F>(s.camera_z - 1.75f);
  float far = s.camera_z + 1.7f;
  auto active = t < far;
  PYFACE_FACE_ROLLED
  for (int i = 0; i < 72; ++i) {
    V3<F> p = r.origin + r.dir * t;
    F d;
    distance(s, p, d, false);
    active = active & (d > 0.0016f) & (t < far);
    if (!any(active)) break;
    t = sel(active, t + vmax(d, 0.0016f) * 0.95f, t);
  }
  return t < far;
}

template <class F>
PYFACE_FN V3<F> surface_normal(const Scene& s, const V3<F>& p) {
  // the corners of a tetrahedron; in a loop, so that a GPU holds one copy of the scene
  const float e = 0.0065f;
  V3<F> n = {};
  PYFACE_FACE_ROLLED
  for (int i = 0; i < 4; ++i) {
    float x = i == 0 || i == 3 ? 1.f : -1.f, y = i < 2 ? -1.f : 1.f, z = i & 1 ? 1.f : -1.f;
    F d;
    distance(s, V3<F>{p.x + e * x, p.y + e * y, p.z + e * z}, d, true);
    n = {n.x + d * x, n.y + d * y, n.z + d * z};
  }
  return normalize(n);
}

template <class F>
PYFACE_FN F occlusion(const Scene& s, const V3<F>& p, const V3<F>& n) {
  F o = F{};
  PYFACE_FACE_ROLLED
  for (int i = 0; i < 2; ++i) {
    F d;
    distance(s, p + n * splat<F>(i ? 0.20f : 0.06f), d, false);
    o = o + (i ? 1.7f * vmax(0.17f - d, 0.f) : 3.2f * vmax(0.052f - d, 0.f));
  }
  return 1.f / (1.f + 2.2f * o);
}

template <class F>
PYFACE_FN F soft_shadow(const Scene& s, const V3<F>& p, const P3& l) {
  F lit = splat<F>(1.f), t = splat<F>(0.05f);
  V3<F> dir = splat3<F>(l);
  PYFACE_FACE_ROLLED
  for (int i = 0; i < 9; ++i) {
    F d;
    distance(s, p + dir * t, d, false);
    lit = vmin(lit, 0.5f + 0.5f * s.shadow_k * d / t);
    t = t + clampf(d, 0.035f, 0.22f);
    if (!any((lit > 0.f) & (t < 1.5f))) break;
  }
  lit = clamp01(lit);
  return lit * lit * (3.f - 2.f * lit);
}

// Diffuse light with a terminator that bleeds red on skin.
template <class F>
PYFACE_FN V3<F> diffuse(F nl, F shadow, F scatter) {
  F base = vmax(nl, 0.f);
  F wr = vmax((nl + 0.38f) * (1.f / 1.38f), 0.f), wg = vmax((nl + 0.20f) * (1.f / 1.20f), 0.f),
    wb = vmax((nl + 0.12f) * (1.f / 1.12f), 0.f);
  F soft = shadow * (1.f - shadow) * 0.22f * scatter;
  F r = mix(base, wr, scatter), g = mix(base, wg, scatter), b = mix(base, wb, scatter);
  return {r * (shadow + soft), g * (shadow + 0.25f * soft), b * shadow};
}
// x^power for x in 0..1.
template <class F>
PYFACE_FN F lobe(F x, F power) {
  F u = vmax(1.f - x, 0.f) * power;
  return bell(u);
}
template <class F>
PYFACE_FN V3<F> halfway(const P3& l, const V3<F>& v) {
  return normalize(V3<F>{v.x + l.x, v.y + l.y, v.z + l.z});
}
template <class F>
PYFACE_FN F strand_gloss(const V3<F>& tangent, const V3<F>& h, F power) {
  F th = dot(tangent, h);
  return lobe(vsqrt(vmax(1.f - th * th, 0.f)), power);
}

template <class F>
PYFACE_FN V3<F> light_surface(const Scene& s, const V3<F>& p, const V3<F>& n, const V3<F>& v,
                              const Surface<F>& a, F ao, F shadow, typename Lanes<F>::Mask hair, F shift) {
  F up = 0.5f + 0.5f * dotc(n, s.up);
  V3<F> sky = splat3<F>(s.ambient_sky), ground = splat3<F>(s.ambient_ground);
  V3<F> light = mix3(ground, sky, up) * ao;
  light.x = light.x + (1.f - ao) * a.scatter * 0.05f;  // occluded skin is lit through itself
  F key_nl = dotc(n, s.key);
  F soften = sel(hair, splat<F>(0.5f), F{});
  V3<F> key = diffuse(mix(key_nl, splat<F>(0.45f), soften), shadow, a.scatter);
  F ao2 = 0.55f + 0.45f * ao;
  light =
      light + V3<F>{key.x * s.key_colour.x * ao2, key.y * s.key_colour.y * ao2, key.z * s.key_colour.z * ao2};
  V3<F> fill = diffuse(dotc(n, s.fill), splat<F>(1.f), a.scatter) * (ao * s.fill_strength);
  V3<F> second = diffuse(dotc(n, s.second), splat<F>(1.f), a.scatter) * ao2;
  light = light + fill +
          V3<F>{second.x * s.second_colour.x, second.y * s.second_colour.y, second.z * s.second_colour.z};
  V3<F> c = {a.albedo.x * light.x, a.albedo.y * light.y, a.albedo.z * light.z};

  F nv = clamp01(dot(n, v));
  F fresnel = 1.f - nv;
  fresnel = fresnel * fresnel;
  fresnel = fresnel * fresnel;
  V3<F> hk = halfway(s.key, v), hf = halfway(s.fill, v);
  F gk = lobe(clamp01(dot(n, hk)), a.power) * vmax(key_nl, 0.f) * shadow,
    gf = lobe(clamp01(dot(n, hf)), a.power);
  F strength = a.spec * (1.f + 2.f * fresnel);
  F rim = s.rim_strength * (vmax(dotc(n, s.rim), 0.f) * fresnel * 1.6f) * ao;
  V3<F> gloss = {strength * (gk * s.key_colour.x + gf * s.fill_strength * 0.7f) + rim,
                 strength * (gk * s.key_colour.y + gf * s.fill_strength * 0.7f) + rim,
                 strength * (gk * s.key_colour.z + gf * s.fill_strength * 0.7f) + rim};
  if (any(hair)) {
    V3<F> flow = strand_direction(s, p);
    V3<F> tangent = normalize(flow - n * (dot(flow, n) - shift));
    F sheen = strand_gloss(tangent, hk, splat<F>(42.f)) * shadow * clamp01(key_nl * 1.5f + 0.35f) * ao2;
    F broad = strand_gloss(tangent, hf, splat<F>(14.f)) * s.fill_strength * ao;
    F top = clamp01(0.25f + 0.75f * up) * ao * (s.ambient_sky.y);
    F white = (0.055f * sheen + 0.018f * broad + 0.016f * top) * (1.f - 0.5f * s.curl);
    F own = 0.55f * sheen + 0.35f * broad;
    V3<F> g = {white * s.key_colour.x + own * a.albedo.x + rim * 0.8f,
               white * s.key_colour.y + own * a.albedo.y + rim * 0.8f,
               white * s.key_colour.z + own * a.albedo.z + rim * 0.8f};
    gloss = sel3(hair, g, gloss);
  }
  return c + gloss;
}

// Rim of the display range: linear to 0.65, then rolling off to 1.
template <class F>
PYFACE_FN F shoulder(F c) {
  F over = vmax(c - 0.62f, 0.f);
  return sel(c > 0.62f, 0.62f + 0.38f * over / (over + 0.38f), vmax(c, 0.f));
}
// Linear 0..1 to sRGB 0..255 (fit by square roots, error below 0.6 of a step).
template <class F>
PYFACE_FN F srgb255(F c) {
  F a = vsqrt(clamp01(c)), b = vsqrt(a), d = vsqrt(b);
  return clampf(255.f * (0.662002687f * a + 0.684122060f * b - 0.323583601f * d - 0.0225411470f * c), 0.f,
                255.f);
}

template <class F>
PYFACE_FN void through_lens(const Scene& s, const V3<F>& p, const Ray<F>& r, Sample<F>& out,
                            typename Lanes<F>::Mask hit) {
  F inv = 1.f / vmin(r.dir.z, -0.05f);
  F z = splat<F>(s.gz - 0.03f);
  V3<F> q = p;
  for (int i = 0; i < 2; ++i) {
    F k = (z - r.origin.z) * inv;
    q = r.origin + r.dir * k;
    z = lens_z(s, vabs(q.x));
  }
  auto behind = hit & (p.z < z - 0.005f) & (lens_shape(s, vabs(q.x), q.y) < 0.f) & (r.dir.z < -0.05f);
  if (!any(behind)) return;
  F dark = splat<F>(1.f - 0.93f * s.gtint - 0.03f);
  V3<F> n = normalize(V3<F>{0.64f * q.x, splat<F>(0.10f), splat<F>(1.f)});
  V3<F> v = {-r.dir.x, -r.dir.y, -r.dir.z};
  F glint = lobe(clamp01(dot(n, halfway(s.key, v))), splat<F>(160.f)) * s.key_colour.y;
  F sheet = 0.012f + 0.05f * ramp(q.y - s.gy + 0.25f * q.x, -0.05f, 0.30f);
  V3<F> seen = {out.vis.x * dark + 0.5f * glint + sheet, out.vis.y * dark + 0.5f * glint + sheet,
                out.vis.z * dark + 0.5f * glint + 1.1f * sheet};
  out.vis = sel3(behind, seen, out.vis);
  F nir_dark = splat<F>(1.f - 0.45f * s.gtint);
  out.nir = sel(behind, out.nir * nir_dark + 0.02f, out.nir);
  if (s.gtint > 0.6f) out.label = sel(behind, splat<F>(static_cast<float>(kClassGlasses)), out.label);
}

// Everything about the sample at image coordinates (x, y).
template <class F>
PYFACE_FN_SPLIT void render_sample(const Scene& s, const F& x, const F& y, Sample<F>& out) {
  Ray<F> r = camera_ray(s, x, y);
  F t;
  auto hit = trace(s, r, t);
  V3<F> back = background(s, x, y);
  F back_nir = (0.05f + 0.10f * s.nir_ambient) * (0.8f + 0.4f * (back.x + back.y + back.z) * 0.333f);
  out.label = F{};
  out.depth = splat<F>(__builtin_inff());
  out.vis = back * s.exposure;
  out.nir = back_nir;
  if (any(hit)) {
    V3<F> p = r.origin + r.dir * t;
    V3<F> v = {-r.dir.x, -r.dir.y, -r.dir.z};
    Parts<F> q;
    all_parts(s, p, q, false);
    F m = nearest(q);
    auto eye = q.eye <= m, hair = q.hair <= m, clothes = q.clothes <= m, glasses = q.glasses <= m,
         teeth = q.teeth <= m;
    hair = hair & !(eye);
    V3<F> n = surface_normal(s, p);
    Surface<F> a;
    skin_surface(s, p, a);
    F shift = F{};
    if (any(hair & hit)) {
      Surface<F> b;
      hair_surface(s, p, b, shift);
      merge(hair, b, a);
    }
    if (any(clothes & hit)) {
      Surface<F> b;
      clothes_surface(s, p, b);
      merge(clothes, b, a);
    }
    if (any(eye & hit)) {
      Surface<F> b;
      V3<F> en;
      eye_surface(s, p, en, b);
      merge(eye, b, a);
      n = sel3(eye, en, n);
    }
    if (any((teeth | glasses) & hit)) {
      F gap = bell(sq((vabs(vsin1(p.x * 8.5f)) - 0.f) * 9.f)) * 0.35f;
      F deep = 1.f - 0.5f * ramp(vabs(p.x), 0.06f, 0.20f);
      Surface<F> b = {splat3<F>({0.74f, 0.69f, 0.60f}) * ((1.f - gap) * deep),
                      splat<F>(0.25f),
                      splat<F>(40.f),
                      splat<F>(0.55f) * deep,
                      F{},
                      splat<F>(static_cast<float>(kClassTeeth))};
      merge(teeth, b, a);
      Surface<F> g = {splat3<F>(s.glass_colour),
                      splat<F>(s.glass_gloss),
                      splat<F>(40.f),
                      splat<F>(0.10f),
                      F{},
                      splat<F>(static_cast<float>(kClassGlasses))};
      merge(glasses, g, a);
    }
    F ao = occlusion(s, p, n);
    F shadow = splat<F>(1.f);
    ao = sel(teeth, vmax(ao, 0.75f), ao);  // enamel is translucent
    auto lit = hit & (dotc(n, s.key) > -0.4f);
    if (any(lit)) shadow = soft_shadow(s, p + n * splat<F>(0.012f), s.key);
    shadow = sel(teeth, vmax(shadow, 0.6f), shadow);
    V3<F> c = light_surface(s, p, n, v, a, ao, shadow, hair, shift) * s.exposure;
    out.vis = sel3(hit, c, out.vis);
    F nv = clamp01(dot(n, v));
    F near = (s.camera_z - 0.9f) / vmax(t, 1.f);
    near = near * near;
    F vignette = 1.f - 0.22f * (x * x + y * y) * 0.5f;
    F nir = a.nir * (s.nir_strength * (0.25f + 0.75f * nv) * near * near * vignette * (0.5f + 0.5f * ao) +
                     s.nir_ambient * 0.4f * ao) +
            s.nir_strength * (a.spec * 0.8f) * lobe(nv, a.power * a.power * 0.09f) * near;
    out.nir = sel(hit, nir, out.nir);
    out.label = sel(hit, a.label, out.label);
    out.depth = sel(hit, t / r.slope, out.depth);
    if (s.glasses) through_lens(s, p, r, out, hit);
  }
  out.vis = {shoulder(out.vis.x), shoulder(out.vis.y), shoulder(out.vis.z)};
  out.nir = shoulder(out.nir);
}

// ---- landmarks

// Image position in pixels of a head-space point.
PYFACE_FN void project(const Scene& s, P3 q, int size, float* xy) {
  V3<float> w = to_world(s, V3<float>{q.x, q.y, q.z});
  float depth = (s.camera_z - w.z) * s.half_view;
  float x = w.x / depth + s.shift_x, y = (w.y + 0.06f) / depth - s.shift_y;
  xy[0] = (x + 1.f) * 0.5f * static_cast<float>(size);
  xy[1] = (1.f - y) * 0.5f * static_cast<float>(size);
}

// Start and direction of the ray that finds landmark i on the skin. Brows, lids, nose and mouth are looked
// for from the front; the jaw line from the middle of the head. The direction points into the head.
PYFACE_FN void landmark_ray(const Scene& s, int i, P3& from, P3& dir) {
  dir = {0.f, 0.f, -1.f};
  if (i < 17) {
    float k = static_cast<float>(i - 8) * 0.125f, ak = vabs(k), side = k < 0.f ? -1.f : 1.f;
    float turn = 0.25f * (1.f - ak * ak * 0.12f) * ak;  // 0 chin .. near a quarter turn at the ear
    turn = turn * 1.10f;
    float sn = vsin1(turn), cs = vsin1(turn + 0.25f);
    dir = {-side * sn, cs, 0.f};
    float back = ak * ak;
    from = {0.f, -0.15f, lerp(0.56f, 0.05f, vmin(1.f, 1.35f * ak - 0.35f * back))};
    return;
  }
  float x = 0.f, y = 0.f;
  if (i < 27) {
    int j = i - 17;
    float b = 0.01f + static_cast<float>(j < 5 ? 4 - j : j - 5) * 0.235f;  // the tail ends in single hairs
    x = s.bx0 + b * (s.bx1 - s.bx0);
    y = brow_line(s, b) + 0.3f * brow_half_height(s, b);
    if (j < 5) x = -x;
  } else if (i < 31) {
    float t = static_cast<float>(i - 27) * (1.f / 3.f);
    y = lerp(s.ey + 0.02f, s.nose_y, t);
  } else if (i < 36) {
    float w = 0.130f * s.nose_w;
    static constexpr float k[5] = {-1.f, -0.5f, 0.f, 0.5f, 1.f};
    static constexpr float dy[5] = {-0.055f, -0.080f, -0.092f, -0.080f, -0.055f};
    x = k[i - 31] * w;
    y = s.nose_y + dy[i - 31];
  } else if (i < 48) {
    int j = (i - 36) % 6;
    bool left = i < 42;
    // clockwise from the outer corner on the left eye, from the inner corner on the right
    static constexpr float u_left[6] = {1.f, 0.34f, -0.34f, -1.f, -0.34f, 0.34f};
    static constexpr float u_right[6] = {-1.f, -0.34f, 0.34f, 1.f, 0.34f, -0.34f};
    float u = left ? u_left[j] : u_right[j];
    y = j == 0 || j == 3 ? s.ey + s.etilt * u : j < 3 ? lid_upper(s, u) : lid_lower(s, u);
    x = s.ex + u * s.ew;
    if (left) x = -x;
  } else if (i < 68) {
    static constexpr float u_outer[12] = {-1.f, -0.62f, -0.27f, 0.f, 0.27f,  0.62f,
                                          1.f,  0.62f,  0.27f,  0.f, -0.27f, -0.62f};
    static constexpr float u_inner[8] = {-0.90f, -0.40f, 0.f, 0.40f, 0.90f, 0.40f, 0.f, -0.40f};
    bool outer = i < 60;
    int j = outer ? i - 48 : i - 60;
    float u = outer ? u_outer[j] : u_inner[j], au = vabs(u);
    x = u * s.mw;
    if (outer) {
      y = j == 0 || j == 6 ? mouth_line(s, au) : j < 6 ? lip_outer_upper(s, au) : lip_outer_lower(s, au);
    } else {
      y = j < 5 ? lip_inner_upper(s, au) : lip_inner_lower(s, au);
    }
  } else if (i < 70) {
    x = i == 68 ? -s.ex : s.ex;
    y = s.ey + 0.006f;
  } else if (i == 70) {
    y = s.nose_y;
  } else {
    x = i == 71 ? -s.mw : s.mw;
    y = mouth_line(s, 1.f);
  }
  from = {x, y, 1.35f};
}

// Walks to the surface: along `dir` from outside, against it from inside.
template <class F>
PYFACE_FN void landmark_walk(const Scene& s, V3<F>& p, const V3<F>& dir) {
  PYFACE_FACE_ROLLED
  for (int i = 0; i < 48; ++i) {
    F skull;
    F d = skin_distance(s, p, skull, false);
    F ax = vabs(p.x);
    F upper, lower;
    F open = eye_opening(s, ax, p.y, upper, lower);
    F ball = sphere_distance(ax - s.ex, p.y - s.ey - 0.006f, p.z - s.ez, s.er + 0.004f);
    d = sel((open < 0.02f) & (p.z > 0.3f), vmin(d, ball), d);
    F u = ax * (1.f / s.mw);
    F in_mouth = vmax(p.y - lip_inner_upper(s, u), lip_inner_lower(s, u) - p.y);
    F lips = p.z - (s.mouth_z + 0.075f - 0.9f * p.x * p.x);
    d = sel((in_mouth < 0.012f) & (p.z > 0.3f) & (u < 1.1f), vmin(d, vmax(lips, -0.02f)), d);
    p = p + dir * (clampf(d, -0.3f, 0.3f) * 0.75f);
  }
}

}  // namespace PYFACE_FACE_NS
