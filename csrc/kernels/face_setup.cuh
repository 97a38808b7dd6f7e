// The constants of one image from its parameter vector: proportions, expression, colours, lights.
#pragma once
#include "kernels/face_scene.cuh"

namespace PYFACE_FACE_NS {

#define PYFACE_P(name) (p[kFP_##name])

PYFACE_FN void setup_camera(const float* p, Scene& s) {
  float cy = vcos(PYFACE_P(yaw)), sy = vsin(PYFACE_P(yaw)), cp = vcos(PYFACE_P(pitch)),
        sp = vsin(PYFACE_P(pitch));
  float cr = vcos(PYFACE_P(roll)), sr = vsin(PYFACE_P(roll));
  // world = roll * yaw * pitch * head
  float a[9] = {cy, -sy * sp, sy * cp, 0.f, cp, sp, -sy, -cy * sp, cy * cp};
  for (int j = 0; j < 3; ++j) {
    s.rot[j] = cr * a[j] + sr * a[3 + j];
    s.rot[3 + j] = -sr * a[j] + cr * a[3 + j];
    s.rot[6 + j] = a[6 + j];
  }
  s.pivot = {0.f, -0.35f, -0.1f};
  s.camera_z = 9.f;
  s.half_view = 1.46f / PYFACE_P(scale) / s.camera_z;
  s.shift_x = PYFACE_P(shift_x);
  s.shift_y = PYFACE_P(shift_y);
  s.eye_point = point_to_head(s, {0.f, -0.06f, s.camera_z});
}

PYFACE_FN void setup_head(const float* p, Scene& s) {
  float hw = 1.f + 0.05f * PYFACE_P(head_width), len = 1.f + 0.06f * PYFACE_P(face_length),
        sex = PYFACE_P(sex) - 0.5f;
  float jaw = 1.f + 0.13f * PYFACE_P(jaw_width) + 0.08f * sex, jd = 0.15f * PYFACE_P(au26);
  float ck = 0.05f * PYFACE_P(au6) + 0.035f * PYFACE_P(au12), age = PYFACE_P(age);
  float fh = 0.06f * PYFACE_P(forehead_height);
  s.jaw_drop = jd;
  s.skull = ball(0.f, 0.34f + fh * 0.5f, -0.14f, 0.775f * hw, 0.875f + fh, 0.92f);
  s.face = ball(0.f, -0.20f * len - 0.5f * jd, 0.10f, 0.655f * hw, 0.84f * len + 0.5f * jd, 0.71f);
  s.cheek = ball(0.435f * hw, -0.12f + 0.05f * PYFACE_P(cheek_height) + ck, 0.36f,
                 0.235f * (1.f + 0.10f * PYFACE_P(cheek_size)), 0.20f,
                 0.27f * (1.f + 0.14f * PYFACE_P(cheek_size)) + ck * 0.6f);
  float fat = PYFACE_P(face_fat);
  s.fat = ball(0.37f + 0.03f * fat, -0.47f * len - 0.4f * jd - 0.05f * age, 0.34f, 0.235f + 0.05f * fat,
               0.26f, 0.25f + 0.06f * fat);
  float ch = 1.f + 0.18f * PYFACE_P(chin_size) + 0.16f * sex,
        cy = -0.93f * len - 0.06f * PYFACE_P(chin_height) - jd;
  s.chin =
      ball(0.f, cy + 0.02f * PYFACE_P(au17), 0.58f + 0.03f * PYFACE_P(chin_size), 0.21f * ch, 0.15f, 0.17f);
  s.jaw = rod({0.50f * hw * jaw, -0.52f * len - 0.3f * jd, 0.02f}, {0.17f * ch, cy + 0.03f, 0.50f},
              0.13f + 0.02f * fat);
  s.muzzle = ball(0.f, -0.60f * len - 0.3f * jd, 0.55f, 0.30f, 0.25f + 0.3f * jd, 0.235f);
  float rg = 0.5f * sex + 0.6f * PYFACE_P(brow_ridge);
  s.ridge = ball(0.24f, 0.33f, 0.56f, 0.30f, 0.10f, 0.165f + 0.028f * rg);
  s.ear_x = 0.755f * hw;
  s.ear_shear = 0.30f + 0.20f * PYFACE_P(ear_angle);
  float es = 1.f + 0.16f * PYFACE_P(ear_size) + 0.08f * age;
  s.ear = ball(0.f, -0.03f, -0.12f, 0.055f, 0.235f * es, 0.135f * es);
  s.concha = ball(0.055f, 0.00f, -0.10f, 0.055f, 0.15f * es, 0.075f * es);
  s.lobe = ball(0.005f, -0.03f - 0.19f * es, -0.06f, 0.045f, 0.07f * es, 0.06f);
  float nr = (0.355f + 0.05f * sex) * (1.f + 0.14f * PYFACE_P(neck_width) + 0.05f * fat);
  s.body_neck = point_to_head(s, {0.f, -1.9f, -0.36f});
  s.neck = rod({0.f, -0.55f, -0.16f}, s.body_neck, nr);
  s.torso = ball(0.f, -2.52f, -0.42f, 1.62f + 0.22f * sex, 0.80f, 0.62f);
  s.shoulders = rod({0.f, -1.55f, -0.42f}, {1.15f + 0.15f * sex, -2.0f, -0.45f}, 0.30f);
}

PYFACE_FN void setup_nose(const float* p, Scene& s) {
  float w = 1.f + 0.22f * PYFACE_P(nose_width) + 0.08f * PYFACE_P(sex) - 0.04f + 0.05f * PYFACE_P(au9);
  float t = 1.f + 0.18f * PYFACE_P(nose_tip), up = 0.035f * PYFACE_P(nose_tilt) + 0.02f * PYFACE_P(au9);
  float ny = -0.285f - 0.065f * PYFACE_P(nose_length) - 0.02f * PYFACE_P(age) + up;
  float nz = 0.955f + 0.07f * PYFACE_P(nose_height);
  float br = 0.035f * PYFACE_P(nose_bridge);
  s.nose_y = ny;
  s.nose_z = nz;
  s.nose_w = w;
  s.bridge = rod({0.f, 0.20f, 0.70f + br}, {0.f, ny + 0.06f, nz - 0.065f + 0.3f * br}, 0.062f);
  s.tip = ball(0.f, ny, nz - 0.01f, 0.092f * t * (0.7f + 0.3f * w), 0.075f * t, 0.092f);
  s.wing =
      ball(0.112f * w, ny - 0.035f + up + 0.02f * PYFACE_P(au9), nz - 0.145f, 0.060f * w, 0.058f, 0.085f);
  s.nostril = ball(0.060f * w, ny - 0.098f + up, nz - 0.095f, 0.030f * w, 0.026f, 0.055f);
}

PYFACE_FN void setup_eyes(const float* p, Scene& s) {
  float size = 1.f + 0.13f * PYFACE_P(eye_size) + 0.05f * (0.5f - PYFACE_P(sex));
  float open = 1.f + 0.24f * PYFACE_P(eye_openness) + 0.10f * (0.5f - PYFACE_P(sex)) - 0.14f * PYFACE_P(age);
  float closed = PYFACE_P(au43), squint = PYFACE_P(au6);
  s.ex = 0.345f + 0.028f * PYFACE_P(eye_distance);
  s.ey = 0.08f + 0.025f * PYFACE_P(eye_height);
  s.ez = 0.530f - 0.025f * PYFACE_P(eye_depth);
  s.er = 0.158f;
  s.ew = 0.163f * size;
  s.etilt = 0.016f + 0.020f * PYFACE_P(eye_tilt);
  float down = vmax(-PYFACE_P(gaze_y), 0.f), up = vmax(PYFACE_P(gaze_y), 0.f);
  float lift =
      0.028f * PYFACE_P(au5) + 0.010f * up - 0.022f * down - 0.012f * PYFACE_P(au9) - 0.008f * PYFACE_P(au4);
  float low = 0.046f * open * (1.f - 0.34f * squint) - 0.008f * PYFACE_P(au9);
  s.eup = lerp(0.066f * open * (1.f - 0.12f * squint) + lift, -0.028f, closed);
  s.elow = lerp(low, 0.030f, closed);
  s.socket = ball(s.ex - 0.015f, s.ey + 0.06f, 0.93f, 0.235f, 0.155f,
                  0.205f + 0.03f * PYFACE_P(eye_depth) + 0.02f * (PYFACE_P(sex) - 0.5f));
  float gx = 0.5f * PYFACE_P(gaze_x), gy = 0.42f * PYFACE_P(gaze_y);
  s.gaze = {vsin(gx) * vcos(gy), vsin(gy), vcos(gx) * vcos(gy)};
  s.crease = PYFACE_P(lid_crease) * (1.f - 0.7f * closed);
  s.lash = 0.62f + 0.38f * (1.f - PYFACE_P(sex)) + 0.25f * PYFACE_P(lipstick);
  s.au1 = PYFACE_P(au1);
  s.au2 = PYFACE_P(au2);
  s.au4 = PYFACE_P(au4);
  s.au9 = PYFACE_P(au9);
  s.au6 = PYFACE_P(au6);
  s.au12 = PYFACE_P(au12);
  float sex = PYFACE_P(sex) - 0.5f;
  s.bx0 = s.ex - 0.205f - 0.02f * sex - 0.035f * s.au4;
  s.bx1 = s.ex + 0.245f - 0.01f * s.au4;
  s.by = s.ey + 0.195f + 0.035f * PYFACE_P(brow_height) - 0.025f * sex;
  s.barch = 0.052f + 0.032f * PYFACE_P(brow_arch) - 0.018f * sex;
  s.bthick = 0.034f * (1.f + 0.38f * PYFACE_P(brow_thickness) + 0.30f * sex);
  s.bdensity = PYFACE_P(brow_density);
}

PYFACE_FN void setup_mouth(const float* p, Scene& s) {
  float au12 = PYFACE_P(au12), au20 = PYFACE_P(au20), au25 = PYFACE_P(au25), au26 = PYFACE_P(au26),
        age = PYFACE_P(age);
  float len = 1.f + 0.06f * PYFACE_P(face_length), sex = PYFACE_P(sex) - 0.5f;
  s.mw = 0.262f * (1.f + 0.14f * PYFACE_P(mouth_width) + 0.04f * sex) *
         (1.f + 0.24f * au12 + 0.18f * au20 - 0.06f * au26);
  s.my = -0.605f * len + 0.03f * PYFACE_P(mouth_height) + 0.018f * PYFACE_P(au17) - 0.012f * au12;
  s.mlift = 0.082f * au12 - 0.068f * PYFACE_P(au15) + 0.018f * PYFACE_P(lip_curve) - 0.012f * PYFACE_P(au17) -
            0.006f * age - 0.012f * au20;
  float gap = 0.050f * au25 + 0.165f * au26;
  s.gap_up = 0.22f * gap + 0.026f * au12 * au25;
  s.gap_low = 0.78f * gap;
  float thin = 1.f - 0.22f * au12 - 0.16f * au20 - 0.22f * age - 0.12f * sex;
  s.lip_up = vmax(0.078f * (1.f + 0.45f * PYFACE_P(upper_lip)) * thin, 0.02f);
  s.lip_low = vmax(0.098f * (1.f + 0.42f * PYFACE_P(lower_lip)) * (thin - 0.1f * PYFACE_P(au17)), 0.02f);
  s.bulge_up = 0.020f + 0.30f * s.lip_up;
  s.bulge_low = 0.020f + 0.30f * s.lip_low + 0.012f * PYFACE_P(au17);
  s.mouth_z = 0.70f;
  s.teeth_y = s.my + 0.006f + 0.5f * s.gap_up + 0.55f * s.mlift * 0.3f;
}

PYFACE_FN void setup_hair(const float* p, Scene& s) {
  float len = PYFACE_P(hair_length), vol = PYFACE_P(hair_volume);
  s.hair_len = len;
  s.hair_solid = len > 0.06f && PYFACE_P(baldness) < 0.97f;
  s.hair_long = len > 0.42f;
  s.hair_alpha = vmin(1.f, 0.45f + 8.f * len);
  s.hair_y = 0.765f + 0.075f * PYFACE_P(hairline) + 0.03f * PYFACE_P(forehead_height);
  s.recede = PYFACE_P(hair_recession);
  s.fringe = PYFACE_P(fringe);
  s.part = 0.34f * PYFACE_P(hair_part);
  s.curl = PYFACE_P(hair_curl);
  s.bald = PYFACE_P(baldness) > 0.02f;
  s.bald_y = lerp(1.35f, 0.42f, PYFACE_P(baldness));
  float grow = vmin(len * 3.f, 1.f);
  s.hair_thick = grow * (0.045f + 0.13f * vol + 0.05f * s.curl * vol + 0.03f * s.fringe) + 0.012f;
  s.hair_amp = 0.006f + 0.012f * grow + 0.060f * s.curl * grow;
  float l = vmax((len - 0.42f) * (1.f / 0.58f), 0.f), open = PYFACE_P(hair_tucked);
  s.hair_end = lerp(-0.55f, -2.0f, l);
  float mid = 0.5f * (0.55f + s.hair_end), half = 0.5f * (0.55f - s.hair_end);
  float wide = 0.80f + 0.08f * vol + 0.10f * s.curl;
  s.hair_back = ball(0.f, mid, -0.42f, wide + 0.04f, half * 1.08f, 0.40f);
  s.hair_side = ball(wide - 0.06f, mid - 0.05f, lerp(0.02f, -0.26f, open), 0.165f + 0.07f * vol, half,
                     lerp(0.34f, 0.24f, open));
  s.face_window =
      ball(0.f, -0.22f, lerp(1.05f, 0.95f, open), lerp(0.60f, 0.72f, open), 1.15f, lerp(0.95f, 1.05f, open));
  s.beard = PYFACE_P(beard);
  s.moustache = vmax(PYFACE_P(moustache), PYFACE_P(beard));
  s.goatee = vmax(PYFACE_P(goatee), PYFACE_P(beard));
  s.stubble = PYFACE_P(stubble);
  s.beard_thick = 0.10f;
}

PYFACE_FN void setup_glasses(const float* p, Scene& s) {
  s.glasses = PYFACE_P(glasses) > 0.5f;
  float size = 1.f + 0.14f * PYFACE_P(glasses_size), square = PYFACE_P(glasses_shape);
  s.gx = 0.345f + 0.01f * PYFACE_P(eye_distance);
  s.gy = 0.045f + 0.02f * PYFACE_P(eye_height);
  s.gz = 0.885f;
  s.gw = 0.262f * size;
  s.gh = lerp(0.232f, 0.178f, square) * size;
  s.gpow = square;
  s.gr = 0.011f + 0.019f * PYFACE_P(glasses_thickness);
  s.gtint = PYFACE_P(glasses_tint);
  float hx = s.gx + s.gw;
  float temple_x = 0.80f * (1.f + 0.05f * PYFACE_P(head_width));
  s.temple = rod({hx, s.gy + 0.06f, s.gz - 0.30f * 0.4f * hx * hx / 0.37f - 0.02f},
                 {temple_x, s.gy + 0.07f, -0.05f}, s.gr * 0.9f);
  s.glass_bridge =
      rod({0.f, s.gy + 0.065f, s.gz + 0.012f}, {s.gx - s.gw * 0.96f, s.gy + 0.05f, s.gz}, s.gr * 0.9f);
  static constexpr P3 tones[5] = {{0.012f, 0.012f, 0.014f},
                                  {0.03f, 0.02f, 0.015f},
                                  {0.12f, 0.055f, 0.02f},
                                  {0.14f, 0.02f, 0.02f},
                                  {0.50f, 0.46f, 0.38f}};
  s.glass_colour = palette(tones, 5, PYFACE_P(glasses_tone));
  s.glass_gloss = PYFACE_P(glasses_tone) > 0.8f ? 0.8f : 0.35f;
}

PYFACE_FN void setup_colours(const float* p, Scene& s) {
  s.melanin = PYFACE_P(melanin);
  s.blood = PYFACE_P(blood);
  s.freckles = PYFACE_P(freckles);
  s.gloss = PYFACE_P(skin_gloss);
  s.age = PYFACE_P(age);
  s.sex = PYFACE_P(sex);
  s.grey = PYFACE_P(hair_grey);
  s.lipstick = PYFACE_P(lipstick);
  s.seed = static_cast<int>(PYFACE_P(texture_seed)) * 7919 + 17;
  static constexpr P3 skins[5] = {{0.80f, 0.545f, 0.430f},
                                  {0.640f, 0.375f, 0.255f},
                                  {0.435f, 0.222f, 0.130f},
                                  {0.225f, 0.105f, 0.060f},
                                  {0.088f, 0.042f, 0.027f}};
  s.skin = palette(skins, 5, s.melanin);
  s.skin = {s.skin.x, s.skin.y * (1.04f - 0.08f * s.blood), s.skin.z * (1.06f - 0.10f * s.blood)};
  s.skin_red = {s.skin.x * 1.03f, s.skin.y * 0.66f, s.skin.z * 0.62f};
  P3 natural = {s.skin.x * 0.80f + 0.015f, s.skin.y * 0.50f + 0.01f, s.skin.z * 0.56f + 0.012f};
  P3 rouge = lerp3({0.50f, 0.14f, 0.15f}, {0.42f, 0.012f, 0.025f}, PYFACE_P(lipstick_tone));
  rouge = lerp3(rouge, natural, 0.25f + 0.25f * s.melanin);
  s.lip = lerp3(lerp3(natural, s.skin, 0.25f * s.sex), rouge, s.lipstick * 0.85f);
  static constexpr P3 hairs[5] = {{0.010f, 0.008f, 0.007f},
                                  {0.028f, 0.017f, 0.011f},
                                  {0.075f, 0.040f, 0.022f},
                                  {0.21f, 0.130f, 0.068f},
                                  {0.50f, 0.36f, 0.20f}};
  P3 h = palette(hairs, 5, PYFACE_P(hair_tone));
  h = lerp3(h, {0.22f + 0.3f * PYFACE_P(hair_tone) * h.x, 0.065f, 0.020f}, 0.75f * PYFACE_P(hair_red));
  P3 grey = {0.42f, 0.42f, 0.42f};
  s.hair = lerp3(h, grey, s.grey);
  P3 brow = lerp3(h, {0.035f, 0.020f, 0.012f}, 0.45f);
  s.brow_colour = lerp3(brow, {0.22f, 0.21f, 0.20f}, 0.6f * s.grey);
  static constexpr P3 irises[6] = {{0.030f, 0.014f, 0.007f}, {0.075f, 0.032f, 0.012f},
                                   {0.13f, 0.075f, 0.025f},  {0.12f, 0.13f, 0.055f},
                                   {0.10f, 0.18f, 0.26f},    {0.20f, 0.25f, 0.29f}};
  s.iris = palette(irises, 6, PYFACE_P(iris_tone));
  s.nir_skin = 0.62f - 0.16f * s.melanin;
  s.nir_hair = lerp(0.09f + 0.30f * PYFACE_P(hair_tone), 0.42f, s.grey);
  s.nir_iris = 0.34f + 0.10f * PYFACE_P(iris_tone);
  s.clothes = {linear_from_srgb(PYFACE_P(clothes_r)), linear_from_srgb(PYFACE_P(clothes_g)),
               linear_from_srgb(PYFACE_P(clothes_b))};
  s.clothes_kind = static_cast<int>(PYFACE_P(clothes_kind) + 0.5f);
  s.pattern = PYFACE_P(clothes_pattern);
}

PYFACE_FN P3 direction(float azimuth, float elevation) {
  return {vsin(azimuth) * vcos(elevation), vsin(elevation), vcos(azimuth) * vcos(elevation)};
}

PYFACE_FN void setup_light(const float* p, Scene& s) {
  s.bg1 = {linear_from_srgb(PYFACE_P(background_r)), linear_from_srgb(PYFACE_P(background_g)),
           linear_from_srgb(PYFACE_P(background_b))};
  s.bg2 = {linear_from_srgb(PYFACE_P(background2_r)), linear_from_srgb(PYFACE_P(background2_g)),
           linear_from_srgb(PYFACE_P(background2_b))};
  s.bg_kind = static_cast<int>(PYFACE_P(background_kind) + 0.5f);
  s.bg_seed = static_cast<int>(PYFACE_P(background_seed)) * 6151 + 3;
  s.key = to_head(s, direction(PYFACE_P(key_azimuth), PYFACE_P(key_elevation)));
  s.second = to_head(s, direction(PYFACE_P(second_azimuth), 0.25f));
  float side = PYFACE_P(key_azimuth) > 0.f ? -1.f : 1.f;
  P3 rim = {side * 0.80f, 0.45f, -0.55f};
  s.rim = to_head(s, rim * (1.f / vsqrt(dot(rim, rim))));
  P3 fill = {side * 0.35f, 0.10f, 0.93f};
  s.fill = to_head(s, fill);
  s.up = to_head(s, {0.f, 1.f, 0.f});
  float k = 0.95f * PYFACE_P(key_strength), w = PYFACE_P(key_warmth);
  s.key_colour = {k * (1.f + 0.10f * w), k, k * (1.f - 0.16f * w)};
  float m = vmax(vmax(s.bg2.x, s.bg2.y), vmax(s.bg2.z, 0.05f));
  float q = 0.7f * PYFACE_P(second_strength) / m;
  s.second_colour = s.bg2 * q;
  float am = PYFACE_P(ambient);
  P3 tint =
      lerp3({0.95f, 1.f, 1.06f}, s.bg1 * (1.f / vmax(vmax(s.bg1.x, s.bg1.y), vmax(s.bg1.z, 0.05f))), 0.25f);
  s.ambient_sky = tint * (0.62f * am);
  s.ambient_ground = P3{0.30f, 0.26f, 0.23f} * am;
  s.rim_strength = PYFACE_P(rim_strength);
  s.fill_strength = 0.55f * PYFACE_P(fill_strength);
  s.shadow_k = lerp(14.f, 4.f, PYFACE_P(key_softness));
  s.exposure = PYFACE_P(exposure);
  s.nir_strength = PYFACE_P(nir_strength);
  s.nir_ambient = PYFACE_P(nir_ambient);
}
#undef PYFACE_P

PYFACE_FN_SPLIT void setup_scene(const float* p, Scene& s) {
  setup_camera(p, s);
  setup_head(p, s);
  setup_nose(p, s);
  setup_eyes(p, s);
  setup_mouth(p, s);
  setup_hair(p, s);
  setup_glasses(p, s);
  setup_colours(p, s);
  setup_light(p, s);
}

}  // namespace PYFACE_FACE_NS
