// What the surfaces look like: albedo, gloss and near-infrared reflectance per material, and their class.
#pragma once
#include "kernels/face_shape.cuh"

namespace PYFACE_FACE_NS {

template <class F>
struct Surface {
  V3<F> albedo;
  F spec, power;  // Blinn-Phong strength and exponent
  F nir;
  F scatter;  // 1 for skin: light bleeds red past the terminator
  F label;
};

template <class F>
PYFACE_FN void blend(Surface<F>& a, const P3& c, F nir, F t) {
  a.albedo = {mix(a.albedo.x, splat<F>(c.x), t), mix(a.albedo.y, splat<F>(c.y), t),
              mix(a.albedo.z, splat<F>(c.z), t)};
  a.nir = mix(a.nir, nir, t);
}
template <class F>
PYFACE_FN V3<F> tint(const V3<F>& a, F t, float r, float g, float b) {
  return {a.x * (1.f + (r - 1.f) * t), a.y * (1.f + (g - 1.f) * t), a.z * (1.f + (b - 1.f) * t)};
}

// Upper lashes with their shadow line, and the fainter lower ones: 0 to 1.
template <class F>
PYFACE_FN F lashes(const Scene& s, F ax, F upper, F lower) {
  F u = (ax - s.ex) * (1.f / s.ew);
  F reach = inside(u - 1.10f, 0.10f) * inside(-u - 0.98f, 0.10f);
  F thick = 0.010f + 0.009f * s.lash + 0.008f * clamp01(u) * s.lash;
  F top = inside(vabs(upper - 0.004f - 0.3f * thick) - thick, 0.012f) * reach;
  F bottom = inside(vabs(lower + 0.004f) - 0.004f, 0.012f) * inside(vabs(u) - 0.95f, 0.2f);
  return vmax(top * vmin(1.f, 0.55f + 0.5f * s.lash), bottom * (0.22f + 0.22f * s.lipstick));
}

template <class F>
PYFACE_FN F brow_mask(const Scene& s, F ax, F y, F& core) {
  F b = (ax - s.bx0) * (1.f / (s.bx1 - s.bx0));
  F h = brow_half_height(s, b);
  F dy = y - brow_line(s, b);
  F ends = ramp(b, -0.04f, 0.10f) * ramp(b, 1.06f, 0.88f);
  core = sel((vabs(dy) < h) & (b > -0.01f) & (b < 1.01f), splat<F>(1.f), F{});
  F hairs = noise2(ax * 60.f + dy * 45.f, y * 14.f - ax * 10.f, s.seed + 71);
  F soft = inside(vabs(dy) - h * (0.82f + 0.3f * hairs), 0.016f);
  return soft * ends * (0.62f + 0.38f * hairs);
}

template <class F>
PYFACE_FN void skin_tone(const Scene& s, const V3<F>& p, F ax, F upper, F lower, Surface<F>& a) {
  F y = p.y, z = p.z;
  F m1 = noise3(p.x * 4.f, y * 4.f, z * 4.f, s.seed), m2 = noise3(p.x * 15.f, y * 15.f, z * 15.f, s.seed + 5);
  F mottle = 0.6f * m1 + 0.4f * m2 - 0.5f;
  a.albedo = splat3<F>(s.skin) * (1.f + 0.10f * mottle);
  F cheek = bell(sq((ax - 0.42f) * 3.6f) + sq((y + 0.20f) * 4.4f));
  F nose = bell(sq(ax * 6.f) + sq((y - s.nose_y) * 6.f)) * ramp(z, 0.7f, 0.85f);
  F ear = ramp(ax, 0.74f, 0.84f) * inside(vabs(y) - 0.4f, 0.1f) * ramp(z, 0.3f, 0.1f);
  F chin = bell(sq(ax * 5.f) + sq((y + 0.95f) * 5.f));
  F red = (0.55f * cheek + 0.60f * nose + 0.55f * ear + 0.22f * chin) * (0.35f + 0.9f * s.blood) +
          0.16f * (m1 - 0.35f) + 0.25f * s.lipstick * cheek;
  a.albedo = mix3(a.albedo, splat3<F>(s.skin_red), clamp01(red) * 0.62f);
  // thin, darker skin around the eyes
  F u = (ax - s.ex) * (1.f / s.ew);
  F ring = bell(sq(u * 0.75f) + sq((lower + 0.045f) * 13.f)) * (0.20f + 0.25f * s.age) +
           bell(sq((u + 1.1f) * 2.2f) + sq((y - s.ey) * 9.f)) * 0.22f;
  a.albedo = tint(a.albedo, ring, 0.62f, 0.52f, 0.58f);
  F lid = ramp(upper, -0.01f, 0.02f) * ramp(upper, 0.11f, 0.04f) * inside(vabs(u) - 1.05f, 0.2f);
  a.albedo = tint(a.albedo, lid * (0.18f + 0.42f * s.lipstick), 0.66f, 0.52f, 0.56f);
  F fold = bell(sq((upper - 0.040f - 0.012f * u) * 75.f)) * inside(vabs(u) - 1.0f, 0.2f) * s.crease;
  a.albedo = tint(a.albedo, fold * 0.55f, 0.55f, 0.42f, 0.40f);
  if (s.freckles > 0.02f) {
    F f = noise2(p.x * 34.f, y * 34.f, s.seed + 83), g = noise2(p.x * 61.f, y * 61.f, s.seed + 89);
    F where = bell(sq(ax * 1.7f) + sq((y + 0.15f) * 3.f)) * ramp(z, 0.3f, 0.5f);
    a.albedo = tint(a.albedo, where * s.freckles * vmax(ramp(f, 0.66f, 0.80f), ramp(g, 0.72f, 0.84f)), 0.78f,
                    0.64f, 0.56f);
  }
  if (s.age > 0.5f) {
    F f = noise3(p.x * 11.f, y * 11.f, z * 11.f, s.seed + 97);
    a.albedo = tint(a.albedo, (s.age - 0.5f) * ramp(f, 0.66f, 0.80f), 0.80f, 0.70f, 0.62f);
  }
  F t_zone = bell(sq(ax * 3.f) + sq((y - 0.55f) * 2.2f)) + nose + 0.5f * cheek;
  a.spec = (0.035f + 0.12f * s.gloss) * (0.55f + 0.8f * clamp01(t_zone)) * (0.85f + 0.3f * m2);
  a.power = splat<F>(14.f + 16.f * s.gloss);
  a.nir = s.nir_skin * (1.f + 0.05f * mottle) - 0.04f * ring;
  a.scatter = splat<F>(1.f);
}

template <class F>
PYFACE_FN void scalp_and_beard(const Scene& s, const V3<F>& p, F ax, Surface<F>& a) {
  F grain = noise3(p.x * 42.f, p.y * 42.f, p.z * 42.f, s.seed + 61);
  F h = hairline_height(s, p) + (noise2(p.x * 13.f, p.z * 13.f, s.seed + 67) - 0.5f) * 0.07f;
  F hair = ramp(h, -0.035f, 0.055f) * s.hair_alpha * (0.80f + 0.35f * grain);
  auto scalp = h > 0.0f;
  blend(a, s.hair, splat<F>(s.nir_hair + 0.08f), clamp01(hair));
  float beard_amount = vmax(vmax(s.beard, s.goatee), vmax(s.moustache, s.stubble));
  if (beard_amount > 0.02f) {
    F area = beard_area(s, ax, p.y, p.z);
    F dense = clamp01(area * (1.9f - 0.7f * area)) * (0.70f + 0.38f * grain);
    blend(a, lerp3(s.hair, s.brow_colour, 0.6f) * 0.8f, splat<F>(s.nir_hair + 0.05f), clamp01(dense));
    if (s.stubble > 0.02f) {
      F cheek_line = s.my + 0.12f + 0.50f * ramp(ax, 0.34f, 0.70f);
      F u = ax * (1.f / s.mw);
      F lips = inside(u - 1.0f, 0.06f) * inside(p.y - lip_outer_upper(s, u), 0.02f) *
               inside(lip_outer_lower(s, u) - p.y, 0.02f);
      F shade = ramp(p.y - cheek_line, 0.10f, -0.12f) * ramp(p.y, -1.30f, -1.05f) * (1.f - lips) *
                ramp(p.z, -0.1f, 0.1f);
      shade = shade * (0.5f + 0.5f * ramp(p.y - s.nose_y, -0.06f, -0.12f));
      blend(a, s.brow_colour * 1.2f, splat<F>(s.nir_hair + 0.1f),
            clamp01(shade * s.stubble * (0.26f + 0.55f * sq(grain))));
    }
    a.spec = a.spec * (1.f - 0.7f * dense);
  }
  a.spec = a.spec * (1.f - 0.6f * clamp01(hair));
  a.label = sel(scalp & (hair > 0.5f), splat<F>(static_cast<float>(kClassHair)), a.label);
}

template <class F>
PYFACE_FN void lip_tone(const Scene& s, const V3<F>& p, F ax, Surface<F>& a) {
  F u = ax * (1.f / s.mw);
  F iu = lip_inner_upper(s, u), il = lip_inner_lower(s, u), ou = lip_outer_upper(s, u),
    ol = lip_outer_lower(s, u);
  F y = p.y;
  auto region = (p.z > 0.35f) & (u < 1.06f) & (y < ou + 0.02f) & (y > ol - 0.02f);
  if (!any(region)) return;
  F edge = s.lipstick > 0.3f ? splat<F>(0.008f) : splat<F>(0.014f);
  F within = vmax(vmax(y - ou, ol - y), (u - 1.f) * s.mw);
  F t = clamp01(0.5f - within * 0.5f / edge) * sel(region, splat<F>(1.f), F{});
  F crack = noise2(ax * 55.f, y * 9.f, s.seed + 101);
  P3 lip = s.lip;
  Surface<F> b = a;
  blend(b, lip, splat<F>(s.nir_skin * 0.94f), t);
  b.albedo = b.albedo * (1.f - 0.16f * t * crack);
  b.spec = mix(a.spec, splat<F>(0.13f + 0.20f * s.lipstick), t);
  b.power = mix(a.power, splat<F>(34.f), t);
  b.label = sel((within < 0.f) & region, splat<F>(static_cast<float>(kClassLips)), a.label);
  // the dark line where the lips meet
  F line = y - mouth_line(s, u);
  F closed = bell(sq(line * 85.f)) * inside(u - 1.01f, 0.10f);
  if (s.gap_low + s.gap_up < 0.01f) {
    b.albedo = tint(b.albedo, closed * 0.85f, 0.34f, 0.22f, 0.22f);
    b.nir = b.nir * (1.f - 0.45f * closed);
  }
  // inside the mouth
  auto cavity = region & (y < iu) & (y > il) & (u < 1.f) & (p.z < 0.69f - 1.2f * ax * ax);
  F depth = clamp01((0.74f - p.z) * 5.f);
  F dark = 1.f - 0.75f * depth;
  b.albedo = sel3(cavity, V3<F>{0.16f * dark, 0.035f * dark, 0.035f * dark}, b.albedo);
  b.nir = sel(cavity, 0.18f * dark, b.nir);
  b.spec = sel(cavity, splat<F>(0.02f), b.spec);
  b.label = sel(cavity, splat<F>(static_cast<float>(kClassMouth)), b.label);
  a = b;
}

template <class F>
PYFACE_FN void skin_surface(const Scene& s, const V3<F>& p, Surface<F>& a) {
  F ax = vabs(p.x), y = p.y, z = p.z;
  F upper, lower;
  F open = eye_opening(s, ax, y, upper, lower);
  a.label = splat<F>(static_cast<float>(kClassSkin));
  skin_tone(s, p, ax, upper, lower, a);
  F neck = rod_distance(p.x, y, z, s.neck);
  a.label = sel((neck < 0.035f) & (y < -0.6f), splat<F>(static_cast<float>(kClassNeck)), a.label);
  F lx = ax - s.ear_x - s.ear_shear * (-0.02f - z);
  F ear = ball_distance(lx, y, z + 0.18f * (y + 0.03f), s.ear);
  a.label = sel((ear < 0.03f) & (ax > s.ear_x - 0.03f), splat<F>(static_cast<float>(kClassEars)), a.label);
  scalp_and_beard(s, p, ax, a);
  auto front = z > 0.3f;
  F core;
  F brow = brow_mask(s, ax, y, core) * sel(front, splat<F>(1.f), F{});
  blend(a, s.brow_colour, splat<F>(s.nir_hair * 0.8f + 0.12f), clamp01(brow * (0.35f + 0.75f * s.bdensity)));
  a.spec = a.spec * (1.f - 0.7f * brow);
  a.label = sel(front & (core > 0.5f), splat<F>(static_cast<float>(kClassBrows)), a.label);
  lip_tone(s, p, ax, a);
  // nostrils swallow light
  F nostril = ball_distance(ax, y, z, s.nostril);
  a.albedo = tint(a.albedo, inside(nostril - 0.004f, 0.014f), 0.16f, 0.10f, 0.09f);
  // eye corners: wet pink skin, then lashes
  auto corner = (open < 0.f) & front;
  a.albedo = sel3(corner, V3<F>{a.albedo.x * 0.85f, a.albedo.y * 0.55f, a.albedo.z * 0.52f}, a.albedo);
  a.spec = sel(corner, splat<F>(0.3f), a.spec);
  a.label = sel(corner, splat<F>(static_cast<float>(kClassEye)), a.label);
  F lash = lashes(s, ax, upper, lower) * sel(front, splat<F>(1.f), F{});
  blend(a, {0.012f, 0.009f, 0.008f}, splat<F>(0.16f), lash * 0.92f);
  a.spec = a.spec * (1.f - lash);
}

template <class F>
PYFACE_FN void eye_surface(const Scene& s, const V3<F>& p, V3<F>& n, Surface<F>& a) {
  F ax = vabs(p.x);
  F side = sel(p.x < 0.f, splat<F>(-1.f), splat<F>(1.f));
  float inv = 1.f / s.er;
  n = {(p.x - side * s.ex) * inv, (p.y - s.ey - 0.006f) * inv, (p.z - s.ez) * inv};
  F dx = n.x - (s.gaze.x - 0.005f * side), dy = n.y - s.gaze.y, dz = n.z - s.gaze.z;
  F r = vsqrt(dx * dx + dy * dy + dz * dz) * s.er;
  F upper, lower;
  eye_opening(s, ax, p.y, upper, lower);
  F u = (ax - s.ex) * (1.f / s.ew);
  F pink = ramp(vabs(u), 0.55f, 1.05f);
  a.albedo = {mix(splat<F>(0.66f), splat<F>(0.62f), pink), mix(splat<F>(0.63f), splat<F>(0.40f), pink),
              mix(splat<F>(0.61f), splat<F>(0.36f), pink)};
  F angle = vatan2_turns(dy, dx);
  F rays = noise2(angle * 40.f, r * 20.f, s.seed + 111);
  F inner = ramp(r, 0.075f, 0.030f);
  F iris = inside(r - 0.074f, 0.010f), limbus = bell(sq((r - 0.071f) * 70.f));
  F pupil = inside(r - 0.027f, 0.008f);
  P3 c = s.iris;
  F lit = (0.75f + 0.6f * rays) * (0.85f + 0.5f * inner) * (1.f - 0.55f * limbus);
  V3<F> ic = {c.x * lit, c.y * lit, c.z * lit};
  a.albedo = mix3(a.albedo, ic, iris);
  a.albedo = mix3(a.albedo, splat3<F>({0.006f, 0.005f, 0.005f}), pupil);
  // the upper lid and its lashes shade the ball
  F shade = 1.f - 0.62f * ramp(upper, -0.055f, 0.004f) - 0.15f * ramp(lower, 0.02f, 0.f);
  a.albedo = a.albedo * shade;
  a.nir = (mix(splat<F>(0.50f), splat<F>(s.nir_iris) * (0.85f + 0.3f * rays), iris) * (1.f - pupil) +
           0.03f * pupil) *
          (0.4f + 0.6f * shade);
  a.spec = splat<F>(0.55f) * (0.5f + 0.5f * shade);
  a.power = splat<F>(90.f);
  a.scatter = splat<F>(0.35f);
  a.label = splat<F>(static_cast<float>(kClassEye));
  F lash = lashes(s, ax, upper, lower);
  blend(a, {0.012f, 0.009f, 0.008f}, splat<F>(0.16f), lash * 0.85f);
}

// Direction along the strand, before it is laid into the surface.
template <class F>
PYFACE_FN V3<F> strand_direction(const Scene& s, const V3<F>& p) {
  F cx = p.x - s.part * ramp(p.y, 0.4f, 1.1f), cz = p.z + 0.22f;
  F inv = 1.f / vsqrt(vmax(cx * cx + cz * cz, 1e-6f));
  F top = ramp(p.y, 0.1f, 0.9f);
  return {cx * inv * (0.15f + 0.85f * top), -1.f + 0.35f * top, cz * inv * (0.15f + 0.85f * top)};
}

template <class F>
PYFACE_FN void hair_surface(const Scene& s, const V3<F>& p, Surface<F>& a, F& shift) {
  F across, along;
  strand_coordinates(s, p, across, along);
  F fine = noise2(across * 230.f, along * 2.2f, s.seed + 131),
    lock = noise2(across * 48.f, along * 1.3f, s.seed + 137);
  F mixture = 0.55f * fine + 0.45f * lock;
  if (s.curl > 0.4f) {
    F c = noise3(p.x * 26.f, p.y * 26.f, p.z * 26.f, s.seed + 139);
    mixture = mix(mixture, c, splat<F>(vmin(1.f, (s.curl - 0.4f) * 2.f)));
  }
  F tone = 0.62f + 0.76f * mixture;
  a.albedo = splat3<F>(s.hair) * tone;
  if (s.grey > 0.02f && s.grey < 0.98f) {
    F streak = ramp(fine, 0.62f, 0.80f) * s.grey;
    blend(a, {0.40f, 0.40f, 0.40f}, splat<F>(0.4f), streak);
  }
  // roots are darker
  F root = ramp(hairline_height(s, p), 0.16f, 0.f);
  a.albedo = a.albedo * (1.f - 0.22f * root);
  a.nir = s.nir_hair * (0.70f + 0.6f * mixture);
  a.spec = splat<F>(0.f);
  a.power = splat<F>(20.f);
  a.scatter = splat<F>(0.f);
  a.label = splat<F>(static_cast<float>(kClassHair));
  shift = (lock - 0.5f) * 0.35f;
}

template <class F>
PYFACE_FN void clothes_surface(const Scene& s, const V3<F>& p, Surface<F>& a) {
  V3<F> w = to_world(s, p);
  F weave = noise2(w.x * 40.f, w.y * 40.f, s.seed + 151);
  F fold = noise2(w.x * 3.f + w.z * 2.f, w.y * 2.f, s.seed + 157);
  F tone = (0.90f + 0.16f * weave) * (0.82f + 0.34f * fold);
  if (s.pattern > 0.75f) {
    tone = tone * (0.78f + 0.3f * (0.5f + 0.5f * vsin1(w.x * 15.f)));
  } else if (s.pattern > 0.5f) {
    tone = tone * (0.55f + 0.6f * ramp(vsin1(w.y * 4.5f), -0.2f, 0.2f));
  }
  a.albedo = splat3<F>(s.clothes) * tone;
  a.nir = (0.30f + 0.35f * (s.clothes.x + s.clothes.y + s.clothes.z) * 0.333f) * tone;
  a.spec = splat<F>(0.015f);
  a.power = splat<F>(8.f);
  a.scatter = splat<F>(0.f);
  a.label = splat<F>(static_cast<float>(kClassClothes));
}

template <class F>
PYFACE_FN void merge(typename Lanes<F>::Mask m, const Surface<F>& b, Surface<F>& a) {
  a.albedo = sel3(m, b.albedo, a.albedo);
  a.spec = sel(m, b.spec, a.spec);
  a.power = sel(m, b.power, a.power);
  a.nir = sel(m, b.nir, a.nir);
  a.scatter = sel(m, b.scatter, a.scatter);
  a.label = sel(m, b.label, a.label);
}

// ---- background, image coordinates -1..1, y up
template <class F>
PYFACE_FN V3<F> bokeh(const Scene& s, F x, F y, V3<F> c) {
  for (int i = 0; i < 12; ++i) {
    float px = 2.6f * hash_unit(5 * i, s.bg_seed) - 1.3f, py = 2.4f * hash_unit(5 * i + 1, s.bg_seed) - 1.0f;
    float r = 0.10f + 0.22f * hash_unit(5 * i + 2, s.bg_seed), w = hash_unit(5 * i + 3, s.bg_seed);
    float k = 0.10f + 0.28f * hash_unit(5 * i + 4, s.bg_seed);
    F d = vsqrt(sq(x - px) + sq(y - py)) - r;
    F t = inside(d, 0.045f) * k;
    P3 light = lerp3(s.bg1, lerp3(s.bg2, {0.95f, 0.85f, 0.65f}, 0.35f), w);
    c = {c.x + (light.x * 1.5f - c.x * 0.3f) * t, c.y + (light.y * 1.5f - c.y * 0.3f) * t,
         c.z + (light.z * 1.5f - c.z * 0.3f) * t};
  }
  return c;
}
template <class F>
PYFACE_FN V3<F> room(const Scene& s, F x, F y, V3<F> c) {
  for (int i = 0; i < 7; ++i) {
    float px = 2.4f * hash_unit(6 * i, s.bg_seed) - 1.2f, py = 2.0f * hash_unit(6 * i + 1, s.bg_seed) - 0.8f;
    float hx = 0.08f + 0.45f * hash_unit(6 * i + 2, s.bg_seed),
          hy = 0.15f + 0.9f * hash_unit(6 * i + 3, s.bg_seed);
    float w = hash_unit(6 * i + 4, s.bg_seed), b = 0.5f + 0.9f * hash_unit(6 * i + 5, s.bg_seed);
    F t = inside(vabs(x - px) - hx, 0.07f) * inside(vabs(y - py) - hy, 0.09f) * 0.8f;
    P3 m = lerp3(s.bg1, s.bg2, w) * b;
    c = {mix(c.x, splat<F>(m.x), t), mix(c.y, splat<F>(m.y), t), mix(c.z, splat<F>(m.z), t)};
  }
  return c;
}
template <class F>
PYFACE_FN V3<F> background(const Scene& s, F x, F y) {
  F t = F{};
  if (s.bg_kind == 1) t = clamp01(0.5f - 0.5f * y + 0.15f * x);
  if (s.bg_kind == 2) t = ramp(sq(x) + sq(y - 0.1f), 0.10f, 1.9f);
  if (s.bg_kind >= 3) t = clamp01(0.5f - 0.45f * y);
  V3<F> c = mix3(splat3<F>(s.bg1), splat3<F>(s.bg2), t);
  if (s.bg_kind == 0) c = c * (1.f + 0.05f * y);
  if (s.bg_kind == 3) c = bokeh(s, x, y, c * 0.7f);
  if (s.bg_kind == 4) c = room(s, x, y, c);
  F cloud = noise2(x * 1.7f + 7.f, y * 1.7f + 5.f, s.bg_seed);
  return c * (0.92f + 0.16f * cloud);
}

}  // namespace PYFACE_FACE_NS
