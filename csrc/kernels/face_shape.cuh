// Signed distances of everything in the picture: skin, eyeballs, hair, body and clothes, glasses, teeth.
#pragma once
#include "kernels/face_scene.cuh"

namespace PYFACE_FACE_NS {

// First-order distance of an ellipsoid: exact on the surface, never too long outside.
template <class F>
PYFACE_FN F ball_distance(F x, F y, F z, const Ball& b) {
  F ux = (x - b.x) * b.ix, uy = (y - b.y) * b.iy, uz = (z - b.z) * b.iz;
  F k = ux * ux + uy * uy + uz * uz;
  F wx = ux * b.ix, wy = uy * b.iy, wz = uz * b.iz;
  return 0.5f * (k - 1.f) / vsqrt(vmax(wx * wx + wy * wy + wz * wz, 1e-8f));
}
template <class F>
PYFACE_FN F sphere_distance(F x, F y, F z, float r) {
  return vsqrt(x * x + y * y + z * z) - r;
}
template <class F>
PYFACE_FN F rod_distance(F x, F y, F z, const Rod& c) {
  F px = x - c.a.x, py = y - c.a.y, pz = z - c.a.z;
  F h = clamp01((px * c.ba.x + py * c.ba.y + pz * c.ba.z) * c.inv);
  px = px - h * c.ba.x;
  py = py - h * c.ba.y;
  pz = pz - h * c.ba.z;
  return vsqrt(px * px + py * py + pz * pz) - c.r;
}
template <class F>
PYFACE_FN F smin(F a, F b, float k) {
  F h = vmax(k - vabs(a - b), 0.f);
  return vmin(a, b) - h * h * (0.25f / k);
}
template <class F>
PYFACE_FN F smax(F a, F b, float k) {
  F h = vmax(k - vabs(a - b), 0.f);
  return vmax(a, b) + h * h * (0.25f / k);
}

template <class F>
struct Parts {
  F skin, eye, hair, clothes, glasses, teeth;
  F skull;  // distance to the bare skull ellipsoid
};

// Eye opening: negative inside, in units of length; `upper` and `lower` come back as signed heights above
// each lid.
template <class F>
PYFACE_FN F eye_opening(const Scene& s, F ax, F y, F& upper, F& lower) {
  F u = (ax - s.ex) * (1.f / s.ew);
  upper = y - lid_upper(s, u);
  lower = y - lid_lower(s, u);
  return vmax(vmax(upper, -lower), (vabs(u) - 1.f) * s.ew);
}

template <class F>
PYFACE_FN F eye_region(const Scene& s, F d, F ax, F y, F z) {
  F dx = ax - s.ex, dz = z - s.ez;
  F dy = y - s.ey - 0.006f;
  F r = vsqrt(dx * dx + dy * dy + dz * dz);
  F upper, lower;
  F open = eye_opening(s, ax, y, upper, lower);
  d = smin(d, r - (s.er + 0.022f), 0.055f);
  // crease above the upper lid
  F u = dx * (1.f / s.ew);
  F fold = upper - (0.040f + 0.012f * u);
  d = d + s.crease * 0.014f * bell(sq(fold * 65.f)) * inside(vabs(u) - 1.05f, 0.2f);
  // soft bag below the lower lid
  F bag = lower + 0.075f + 0.02f * s.age;
  d = d + (0.004f + 0.010f * s.age + 0.006f * s.au6) * bell(sq(bag * 40.f)) * inside(vabs(u) - 0.9f, 0.3f);
  F cut = vmax(open, (s.ez + 0.07f) - z);
  return smax(d, -cut, 0.014f);
}

template <class F>
PYFACE_FN F mouth_region(const Scene& s, F d, F ax, F y, F z) {
  F u = ax * (1.f / s.mw);
  F e = vmax(1.f - u * u, 0.f);
  F iu = lip_inner_upper(s, u), il = lip_inner_lower(s, u), ou = lip_outer_upper(s, u),
    ol = lip_outer_lower(s, u);
  F tu = clamp01((y - iu) / vmax(ou - iu, 0.012f)), tl = clamp01((il - y) / vmax(il - ol, 0.012f));
  F round_u = (1.f - tu) * (0.35f + tu * 2.2f), round_l = (1.f - tl) * (0.40f + tl * 3.1f);
  F upper = sel(y > iu, round_u, vmax(1.f - (iu - y) * 30.f, 0.f) * 0.35f);
  F lower = sel(y < il, round_l, vmax(1.f - (y - il) * 30.f, 0.f) * 0.40f);
  F side = e * (1.4f - 0.4f * e);
  F bulge = vmax(upper * s.bulge_up, lower * s.bulge_low);
  // parting line between closed lips; runs a little past the corners
  F line = y - mouth_line(s, u);
  F groove = 0.020f * bell(sq(line * 55.f)) * inside(u - 1.04f, 0.12f);
  // philtrum and the hollow under the lower lip
  F philtrum = 0.010f * bell(sq(ax * 22.f)) * ramp(y - ou, -0.01f, 0.03f) * inside(y - ou - 0.13f, 0.06f);
  F hollow = 0.018f * bell(sq((y - ol + 0.055f) * 20.f)) * inside(u - 0.7f, 0.4f);
  d = d - bulge * side + groove + philtrum + hollow;
  // corner dimple
  d = d + (0.012f + 0.016f * s.au12) * bell(sq((u - 1.06f) * 7.f) + sq(line * 22.f));
  F open = vmax(vmax(y - iu, il - y), (u - 1.f) * s.mw);  // ends at the corners: no ridge across the cheeks
  F cut = vmax(open, 0.42f - z);
  return smax(d, -cut, 0.012f);
}

template <class F>
PYFACE_FN F nose_region(const Scene& s, F d, F ax, F y, F z) {
  d = smin(d, rod_distance(ax, y, z, s.bridge), 0.13f);
  d = smin(d, ball_distance(ax, y, z, s.tip), 0.085f);
  d = smin(d, ball_distance(ax, y, z, s.wing), 0.045f);
  return smax(d, -ball_distance(ax, y, z, s.nostril), 0.025f);
}

template <class F>
PYFACE_FN F ear_region(const Scene& s, F d, F ax, F y, F z) {
  F lx = ax - s.ear_x - s.ear_shear * (-0.02f - z), ly = y + 0.0f, lz = z + 0.18f * (y + 0.03f);
  F e = ball_distance(lx, ly, lz, s.ear);
  e = smin(e, ball_distance(lx, ly, lz, s.lobe), 0.05f);
  e = smax(e, -ball_distance(lx, ly, lz, s.concha), 0.035f);
  return smin(d, e, 0.035f);
}

// Folds that come with age and expression: displacement only seen by the normals.
template <class F>
PYFACE_FN F folds(const Scene& s, F ax, F y, F z) {
  F age = splat<F>(s.age);
  // nasolabial fold from the wing of the nose to beside the mouth corner
  F t = clamp01((s.nose_y - 0.02f - y) * (1.f / vmax(s.nose_y - s.my + 0.08f, 0.1f)));
  float reach = s.mw + 0.055f + 0.02f * s.au12;
  F fx = 0.175f * s.nose_w + (reach - 0.175f * s.nose_w) * (t * (1.35f - 0.35f * t));
  float depth = 0.003f + 0.011f * s.age + 0.018f * s.au12 + 0.010f * s.au9;
  F nl = bell(sq((ax - fx) * 24.f)) * ramp(y - s.nose_y, 0.06f, -0.04f) * ramp(y - s.my, -0.14f, -0.02f);
  F r = depth * nl;
  // forehead lines: raised brows and age
  float lines = (0.002f + 0.006f * s.age) * vmin(1.f, s.au1 + s.au2) + 0.005f * s.age * s.age;
  F fy = (y - s.by) * 13.f + 0.5f * vsin1(ax * 0.9f + 0.1f);
  F wave = 0.5f + 0.5f * vsin1(fy);
  r = r + lines * wave * wave * ramp(y - s.by, 0.06f, 0.16f) * ramp(y - s.by, 0.50f, 0.34f) *
              inside(ax - 0.42f, 0.3f);
  // glabella: vertical lines between lowered brows
  r = r + 0.016f * s.au4 * bell(sq((ax - 0.065f) * 45.f)) * bell(sq((y - s.by + 0.02f) * 8.f));
  // bunny lines
  F bunny = 0.5f + 0.5f * vsin1(y * 14.f + ax * 4.f);
  r = r + 0.012f * s.au9 * bunny * bell(sq((y - s.ey + 0.06f) * 9.f)) * inside(ax - 0.16f, 0.1f);
  // crow's feet
  F ox = ax - (s.ex + s.ew + 0.02f), oy = y - s.ey - 0.02f;
  F ray = 0.5f + 0.5f * vsin1(oy * 16.f / (1.f + 5.f * vmax(ox, 0.f)));
  r = r + (0.006f * s.age + 0.009f * s.au6 * (0.3f + s.age)) * ray * ramp(ox, 0.f, 0.04f) *
              ramp(ox, 0.20f, 0.10f) * inside(vabs(oy) - 0.1f, 0.1f);
  // jowl and marionette line
  r = r + 0.012f * age * bell(sq((ax - s.mw - 0.03f) * 22.f)) * bell(sq((y - s.my + 0.12f) * 11.f));
  // chin: dimples when raised
  (void)z;
  return r;
}

// Where a beard grows, 0 to 1, in head space; lips and the corner below the lower lip stay free.
template <class F>
PYFACE_FN F beard_area(const Scene& s, F ax, F y, F z) {
  F cheek_line = s.my + 0.10f + 0.52f * ramp(ax, 0.34f, 0.70f);
  F full = ramp(y - cheek_line, 0.05f, -0.10f) * ramp(y, -1.34f, -1.14f) * ramp(z, -0.16f, 0.02f);
  F u = ax * (1.f / s.mw);
  F ou = lip_outer_upper(s, u), ol = lip_outer_lower(s, u);
  F above = y - ou;
  F lip = ramp(above, -0.002f, 0.02f) * ramp(y - s.nose_y + 0.09f * u * u, -0.070f, -0.125f) *
          inside(u - 0.98f, 0.24f);
  F off_lips = vmax(ramp(above, -0.004f, 0.016f), ramp(ol - y, -0.004f, 0.020f));
  off_lips = vmax(off_lips, ramp(u, 1.02f, 1.12f));
  F soul = 1.f - 0.75f * ramp(u, 0.16f, 0.34f) * inside(u - 0.85f, 0.2f) * ramp(y - ol, -0.10f, -0.03f);
  F below = full * ramp(y - s.my, 0.10f, -0.02f) + full * ramp(ax, s.mw + 0.01f, s.mw + 0.10f);
  F goatee = full * inside(ax - 0.24f, 0.10f);
  F r = vmax(clamp01(below) * s.beard, goatee * s.goatee);
  r = vmax(r * soul, lip * s.moustache);
  return r * off_lips * ramp(z, -0.16f, 0.02f);
}

template <class F>
PYFACE_FN F front_details(const Scene& s, F d, F ax, F y, F z, bool detail) {
  auto front = z > 0.15f;
  F f = smin(d, ball_distance(ax, y, z, s.muzzle), 0.16f);
  f = smin(f, ball_distance(ax, y, z, s.ridge), 0.12f);
  f = smax(f, -ball_distance(ax, y, z, s.socket), 0.16f);
  f = nose_region(s, f, ax, y, z);
  auto at_eye = (f < 0.12f) & (z > 0.3f) & (vabs(y - s.ey) < 0.32f);
  if (any(at_eye)) f = sel(at_eye, eye_region(s, f, ax, y, z), f);
  auto at_mouth = (f < 0.12f) & (z > 0.3f) & (vabs(y - s.my) < 0.45f);
  if (any(at_mouth)) f = sel(at_mouth, mouth_region(s, f, ax, y, z), f);
  if (detail) f = f + folds(s, ax, y, z);
  return sel(front, f, d);
}

template <class F>
PYFACE_FN F skin_distance(const Scene& s, const V3<F>& p, F& skull, bool detail) {
  F ax = vabs(p.x), y = p.y, z = p.z;
  skull = ball_distance(ax, y, z, s.skull);
  F d = smin(skull, ball_distance(ax, y, z, s.face), 0.24f);
  d = smin(d, rod_distance(ax, y, z, s.jaw), 0.20f);
  d = smin(d, ball_distance(ax, y, z, s.chin), 0.20f);
  d = smin(d, ball_distance(ax, y, z, s.cheek), 0.20f);
  d = smin(d, ball_distance(ax, y, z, s.fat), 0.20f);
  auto near = d < 0.45f;
  F far_bound = d - 0.22f;
  if (any(near)) {
    if (any(near & (z > 0.15f))) d = front_details(s, d, ax, y, z, detail);
    if (s.beard + s.goatee + s.moustache > 0.05f) {
      auto at = near & (d < 0.2f) & (y < 0.2f);
      if (any(at)) {
        F grow = beard_area(s, ax, y, z);
        F tuft = noise3(p.x * 16.f, y * 7.f, z * 16.f, s.seed + 51);
        d = sel(at, d - s.beard_thick * grow * (0.45f + 0.55f * tuft) * (0.4f + 0.6f * grow), d);
      }
    }
    auto at_ear = (z < 0.35f) & (vabs(y) < 0.6f);
    if (any(at_ear)) d = sel(at_ear, ear_region(s, d, ax, y, z), d);
  }
  d = sel(near, d, far_bound);
  auto low = y < -0.45f;
  if (any(low)) d = sel(low, smin(d, rod_distance(p.x, y, z, s.neck), 0.09f), d);
  return d;
}

// Height above the hairline: positive where hair grows.
template <class F>
PYFACE_FN F hairline_height(const Scene& s, const V3<F>& p) {
  F ax = vabs(p.x);
  F sweep = clamp01((p.x - s.part) * (s.part > 0.f ? -0.9f : 0.9f) + 0.75f);
  F front = s.hair_y - 0.16f * ramp(ax, 0.30f, 0.62f) + s.recede * 0.20f * bell(sq((ax - 0.36f) * 4.2f)) +
            0.05f * s.recede - s.fringe * 0.40f * (0.55f + 0.45f * sweep) * ramp(ax, 0.75f, 0.35f);
  F side = mix(splat<F>(-0.16f), splat<F>(0.16f), ramp(p.z, 0.13f, 0.05f));
  side = mix(side, splat<F>(-0.78f), ramp(p.z, -0.12f, -0.30f));
  F line = mix(front, side, ramp(p.z, 0.46f, 0.22f));
  F h = p.y - line;
  if (s.bald) h = vmin(h, s.bald_y - p.y + 0.35f * clamp01(-p.z - 0.4f));
  return h;
}
// Strand coordinates: turns about the crown (constant along a strand) and distance along the strand.
template <class F>
PYFACE_FN void strand_coordinates(const Scene& s, const V3<F>& p, F& across, F& along) {
  F cx = p.x - s.part * ramp(p.y, 0.4f, 1.1f), cz = p.z + 0.22f;
  across = vatan2_turns(cx, cz);
  along = vsqrt(cx * cx + cz * cz) - 0.9f * p.y;
  across = across + s.curl * 0.012f * vsin1(along * 2.2f + 3.f * across);
}
template <class F>
PYFACE_FN F hair_relief(const Scene& s, const V3<F>& p) {
  F across, along;
  strand_coordinates(s, p, across, along);
  F lock = noise2(across * 34.f, along * 0.7f, s.seed + 11);
  F fine = noise2(across * 120.f, along * 1.2f, s.seed + 23);
  F r = (lock - 0.5f) * 1.25f + (fine - 0.5f) * 0.5f;
  if (s.curl > 0.3f) {
    F c = noise3(p.x * 9.f, p.y * 9.f, p.z * 9.f, s.seed + 37) - 0.5f +
          0.5f * (noise3(p.x * 19.f, p.y * 19.f, p.z * 19.f, s.seed + 41) - 0.5f);
    r = mix(r, c * 2.f, splat<F>(vmin(1.f, (s.curl - 0.3f) * 2.f)));
  }
  return r;
}
template <class F>
PYFACE_FN F hair_distance(const Scene& s, const V3<F>& p, F skull) {
  F h = hairline_height(s, p);
  float edge = s.fringe > 0.2f ? 0.14f : 0.30f;
  F grow = ramp(h, -0.02f, edge);
  F top = ramp(p.y, 0.5f, 1.25f) * ramp(p.z, -0.6f, 0.3f);
  F thick = s.hair_thick * (0.85f + 0.5f * top) * grow - 0.035f * ramp(h, 0.05f, -0.03f);
  F d = vmax(skull - thick, -0.2f * (h + 0.06f));  // no hair inside the face, where the eyes look in
  if (s.hair_long) {
    F ax = vabs(p.x);
    F wave = s.curl * 0.045f * vsin1(p.y * 1.7f + 0.4f * p.x + s.part);
    F taper = 0.10f * ramp(p.y, -1.1f, 0.1f);
    F l = smin(ball_distance(ax + wave, p.y, p.z, s.hair_back),
               ball_distance(ax + wave + 0.04f - taper * 0.4f, p.y, p.z, s.hair_side), 0.10f);
    l = smax(l, -ball_distance(ax, p.y, p.z, s.face_window), 0.08f);
    l = vmax(l, p.y - 0.75f);
    l = vmax(l, s.hair_end - p.y + 0.06f * vsin1(ax * 2.3f));
    d = smin(d, l, 0.12f);
  }
  auto near = d < 0.10f;
  F relief = splat<F>(0.9f);
  if (any(near)) {
    F hanging = s.hair_long ? 0.25f * ramp(p.y, 0.3f, -0.2f) : F{};
    relief = sel(near, hair_relief(s, p) * ramp(h + hanging, -0.02f, 0.12f), relief);
  }
  return (d - s.hair_amp * relief) * 0.80f;
}

template <class F>
PYFACE_FN F clothes_distance(const Scene& s, const V3<F>& p, F skin) {
  V3<F> w = to_world(s, p);
  F ax = vabs(w.x);
  F body = smin(ball_distance(ax, w.y, w.z, s.torso), rod_distance(ax, w.y, w.z, s.shoulders), 0.25f);
  F nx = w.x, nz = w.z + 0.33f;
  F radial = vsqrt(nx * nx + nz * nz);
  body = smin(body, skin + 0.02f, 0.22f);
  F front = ramp(w.z, -0.5f, 0.1f);
  F line;
  if (s.clothes_kind == 3) {
    line = w.y + 1.12f + 0.10f * front;
  } else if (s.clothes_kind == 2) {
    line = w.y + 1.40f + front * 0.75f * vmax(0.42f - ax, 0.f) * 1.6f - 0.10f * ax;
  } else if (s.clothes_kind == 1) {
    line = w.y + 1.24f + front * (0.06f + 1.1f * vmax(0.20f - ax, 0.f));
  } else {
    line = w.y + 1.38f + 0.12f * front - 0.06f * ax;
  }
  float thick = s.clothes_kind == 1 ? 0.055f : 0.03f;
  F hem = 0.018f * inside(vabs(line + 0.05f) - 0.035f, 0.02f);
  F d = smax(body - thick - hem, line, 0.03f);
  (void)radial;
  return d * 0.85f;
}

template <class F>
PYFACE_FN F lens_shape(const Scene& s, F ax, F y) {
  F gx = (ax - s.gx) * (1.f / s.gw), gy = (y - s.gy) * (1.f / s.gh);
  F x2 = gx * gx, y2 = gy * gy;
  F round = vsqrt(x2 + y2), square = vsqrt(vsqrt(x2 * x2 + y2 * y2));
  return (mix(round, square, splat<F>(s.gpow)) - 1.f) * (0.9f * s.gh);
}
template <class F>
PYFACE_FN F lens_z(const Scene& s, F ax) {
  return s.gz - 0.32f * ax * ax;
}
template <class F>
PYFACE_FN F glasses_distance(const Scene& s, const V3<F>& p) {
  F ax = vabs(p.x);
  F a = lens_shape(s, ax, p.y), b = p.z - lens_z(s, ax);
  F d = vsqrt(a * a + b * b) - s.gr;
  d = vmin(d, rod_distance(ax, p.y, p.z, s.temple));
  d = vmin(d, rod_distance(ax, p.y, p.z, s.glass_bridge));
  return d * 0.85f;
}

template <class F>
PYFACE_FN F teeth_distance(const Scene& s, const V3<F>& p) {
  F zt = s.mouth_z + 0.005f - 1.5f * p.x * p.x;
  F upper = vmax(p.z - zt, vmax(s.teeth_y - 0.075f - p.y, p.y - s.teeth_y - 0.12f));
  F low_y = p.y - (s.my - s.gap_low - 0.055f - 0.02f);
  F lower = vmax(p.z - zt + 0.035f, vmax(low_y - 0.06f, -low_y - 0.10f));
  return vmax(vmin(upper, lower), 0.35f - p.z) * 0.7f;
}

template <class F>
PYFACE_FN void all_parts(const Scene& s, const V3<F>& p, Parts<F>& q, bool detail) {
  F far = splat<F>(9.f);
  q.skin = skin_distance(s, p, q.skull, detail);
  F ax = vabs(p.x);
  q.eye = sphere_distance(ax - s.ex, p.y - s.ey - 0.006f, p.z - s.ez, s.er);
  q.hair = far;
  q.clothes = far;
  q.glasses = far;
  q.teeth = far;
  if (s.hair_solid) q.hair = hair_distance(s, p, q.skull);
  auto low = p.y < -0.3f;
  if (any(low)) q.clothes = sel(low, clothes_distance(s, p, q.skin), far);
  if (s.glasses) {
    auto near = q.skin < 0.45f;
    q.glasses = q.skin - 0.30f;
    if (any(near)) q.glasses = sel(near, glasses_distance(s, p), q.glasses);
  }
  if (s.gap_low + s.gap_up > 0.004f) {
    auto mouth = (p.z > 0.3f) & (p.y < 0.f);
    if (any(mouth)) q.teeth = sel(mouth, teeth_distance(s, p), far);
  }
}

template <class F>
PYFACE_FN F nearest(const Parts<F>& q) {
  return vmin(vmin(vmin(q.skin, q.eye), vmin(q.hair, q.clothes)), vmin(q.glasses, q.teeth));
}
template <class F>
PYFACE_FN_SPLIT void distance(const Scene& s, const V3<F>& p, F& d, bool detail) {
  Parts<F> q;
  all_parts(s, p, q, detail);
  d = nearest(q);
}

}  // namespace PYFACE_FACE_NS
