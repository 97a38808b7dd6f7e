// The one table of face parameters: name, lowest and highest allowed value, default, what it does.
// Shape parameters run from -1 to 1 (0 is an average adult, +-1 the natural limit, about 2.2 standard
// deviations); amounts and tones run from 0 to 1; angles are radians; image left is negative x.
#pragma once

#define PYFACE_FACE_PARAMS(F)                                                                                \
  /* head and skull */                                                                                       \
  F(head_width, -1.f, 1.f, 0.f, "width of the whole head")                                                   \
  F(face_length, -1.f, 1.f, 0.f, "distance from the brows to the chin")                                      \
  F(forehead_height, -1.f, 1.f, 0.f, "height of the skull above the brows")                                  \
  F(jaw_width, -1.f, 1.f, 0.f, "width at the jaw angles")                                                    \
  F(cheek_size, -1.f, 1.f, 0.f, "how far the cheekbones stand out")                                          \
  F(cheek_height, -1.f, 1.f, 0.f, "height of the cheekbones")                                                \
  F(face_fat, -1.f, 1.f, 0.f, "hollow (-1) to full (1) lower cheeks")                                        \
  F(chin_size, -1.f, 1.f, 0.f, "width and projection of the chin")                                           \
  F(chin_height, -1.f, 1.f, 0.f, "distance from the lower lip to the tip of the chin")                       \
  F(brow_ridge, -1.f, 1.f, 0.f, "projection of the bone above the eyes")                                     \
  /* nose */                                                                                                 \
  F(nose_width, -1.f, 1.f, 0.f, "width of the nostrils")                                                     \
  F(nose_length, -1.f, 1.f, 0.f, "distance from the nose root to the tip")                                   \
  F(nose_height, -1.f, 1.f, 0.f, "projection of the nose tip")                                               \
  F(nose_bridge, -1.f, 1.f, 0.f, "flat (-1) to high (1) bridge")                                             \
  F(nose_tip, -1.f, 1.f, 0.f, "fine (-1) to bulbous (1) tip")                                                \
  F(nose_tilt, -1.f, 1.f, 0.f, "hanging (-1) to upturned (1) tip")                                           \
  /* eyes and brows */                                                                                       \
  F(eye_distance, -1.f, 1.f, 0.f, "distance between the eyes")                                               \
  F(eye_size, -1.f, 1.f, 0.f, "width of the eye openings")                                                   \
  F(eye_openness, -1.f, 1.f, 0.f, "narrow (-1) to round (1) eye openings")                                   \
  F(eye_height, -1.f, 1.f, 0.f, "height of the eyes in the face")                                            \
  F(eye_tilt, -1.f, 1.f, 0.f, "outer corners low (-1) to high (1)")                                          \
  F(eye_depth, -1.f, 1.f, 0.f, "protruding (-1) to deep-set (1)")                                            \
  F(lid_crease, 0.f, 1.f, .6f, "strength of the upper eyelid crease; 0 is a single lid")                     \
  F(brow_height, -1.f, 1.f, 0.f, "height of the brows above the eyes")                                       \
  F(brow_thickness, -1.f, 1.f, 0.f, "thin (-1) to thick (1) brows")                                          \
  F(brow_arch, -1.f, 1.f, 0.f, "straight (-1) to arched (1) brows")                                          \
  F(brow_density, 0.f, 1.f, .7f, "how dark and dense the brows are")                                         \
  /* mouth */                                                                                                \
  F(upper_lip, -1.f, 1.f, 0.f, "thickness of the upper lip")                                                 \
  F(lower_lip, -1.f, 1.f, 0.f, "thickness of the lower lip")                                                 \
  F(mouth_width, -1.f, 1.f, 0.f, "width of the mouth at rest")                                               \
  F(mouth_height, -1.f, 1.f, 0.f, "height of the mouth between nose and chin")                               \
  F(lip_curve, -1.f, 1.f, 0.f, "corners of the mouth at rest low (-1) to high (1)")                          \
  /* ears and neck */                                                                                        \
  F(ear_size, -1.f, 1.f, 0.f, "size of the ears")                                                            \
  F(ear_angle, -1.f, 1.f, 0.f, "flat (-1) to protruding (1) ears")                                           \
  F(neck_width, -1.f, 1.f, 0.f, "width of the neck")                                                         \
  /* skin, iris and age */                                                                                   \
  F(melanin, 0.f, 1.f, .25f, "very pale (0) to very dark (1) skin")                                          \
  F(blood, 0.f, 1.f, .5f, "redness of cheeks, nose and ears")                                                \
  F(freckles, 0.f, 1.f, 0.f, "amount of freckles")                                                           \
  F(skin_gloss, 0.f, 1.f, .4f, "matte (0) to oily (1) skin")                                                 \
  F(iris_tone, 0.f, 1.f, .2f, "dark brown (0), brown (.3), hazel (.5), green (.7), blue (.9), grey (1)")     \
  F(age, 0.f, 1.f, .2f, "wrinkles and sagging: 0 is about 20 years, 1 about 75")                             \
  F(sex, 0.f, 1.f, .5f, "as drawn: feminine (0) to masculine (1) brow ridge, jaw, neck and lashes")          \
  F(lipstick, 0.f, 1.f, 0.f, "strength of lipstick and eye make-up")                                         \
  F(lipstick_tone, 0.f, 1.f, .5f, "natural rose (0) to deep red (1)")                                        \
  /* hair */                                                                                                 \
  F(hair_tone, 0.f, 1.f, .25f, "black (0), dark brown (.25), brown (.45), dark blond (.7), light blond (1)") \
  F(hair_red, 0.f, 1.f, 0.f, "amount of red pigment")                                                        \
  F(hair_grey, 0.f, 1.f, 0.f, "share of grey hair")                                                          \
  F(hairline, -1.f, 1.f, 0.f, "low (-1) to high (1) hairline")                                               \
  F(hair_recession, 0.f, 1.f, 0.f, "receding corners of the hairline")                                       \
  F(baldness, 0.f, 1.f, 0.f, "loss of the hair on top; 1 leaves a ring")                                     \
  F(hair_length, 0.f, 1.f, .3f, "shaved (0), short (.25), to the jaw (.6), over the shoulders (1)")          \
  F(hair_volume, 0.f, 1.f, .4f, "flat to voluminous hair")                                                   \
  F(hair_curl, 0.f, 1.f, .1f, "straight (0), wavy (.5), tightly curled (1)")                                 \
  F(hair_part, -1.f, 1.f, .3f, "position of the parting, image left to image right")                         \
  F(fringe, 0.f, 1.f, 0.f, "hair over the forehead; from .5 it reaches the brows")                           \
  F(hair_tucked, 0.f, 1.f, .5f, "long hair before the ears (0) or behind them (1)")                          \
  F(beard, 0.f, 1.f, 0.f, "full beard: length and density")                                                  \
  F(moustache, 0.f, 1.f, 0.f, "moustache: length and density")                                               \
  F(goatee, 0.f, 1.f, 0.f, "beard of the chin only")                                                         \
  F(stubble, 0.f, 1.f, 0.f, "shadow of a shaved or short beard")                                             \
  F(texture_seed, 0.f, 65535.f, 1.f, "whole number that chooses all fine texture of this person")            \
  /* expression: FACS action units, 0 absent to 1 maximum */                                                 \
  F(au1, 0.f, 1.f, 0.f, "inner brow raiser")                                                                 \
  F(au2, 0.f, 1.f, 0.f, "outer brow raiser")                                                                 \
  F(au4, 0.f, 1.f, 0.f, "brow lowerer: brows down and together")                                             \
  F(au5, 0.f, 1.f, 0.f, "upper lid raiser")                                                                  \
  F(au6, 0.f, 1.f, 0.f, "cheek raiser and lower lid")                                                        \
  F(au9, 0.f, 1.f, 0.f, "nose wrinkler")                                                                     \
  F(au12, 0.f, 1.f, 0.f, "lip corner puller: smile")                                                         \
  F(au15, 0.f, 1.f, 0.f, "lip corner depressor")                                                             \
  F(au17, 0.f, 1.f, 0.f, "chin raiser")                                                                      \
  F(au20, 0.f, 1.f, 0.f, "lip stretcher")                                                                    \
  F(au25, 0.f, 1.f, 0.f, "lips part")                                                                        \
  F(au26, 0.f, 1.f, 0.f, "jaw drop")                                                                         \
  F(au43, 0.f, 1.f, 0.f, "eyes closed")                                                                      \
  F(gaze_x, -1.f, 1.f, 0.f, "look to image left (-1) or image right (1), 1 is about 30 degrees")             \
  F(gaze_y, -1.f, 1.f, 0.f, "look down (-1) or up (1), 1 is about 25 degrees")                               \
  /* glasses */                                                                                              \
  F(glasses, 0.f, 1.f, 0.f, "worn when above .5")                                                            \
  F(glasses_shape, 0.f, 1.f, .5f, "round (0) to rectangular (1)")                                            \
  F(glasses_size, -1.f, 1.f, 0.f, "size of the lenses")                                                      \
  F(glasses_thickness, 0.f, 1.f, .4f, "wire (0) to thick (1) rims")                                          \
  F(glasses_tint, 0.f, 1.f, .05f, "clear (0) to sunglasses (1)")                                             \
  F(glasses_tone, 0.f, 1.f, .1f, "black (0), tortoise (.4), red-brown (.6), metal (1)")                      \
  /* pose and camera */                                                                                      \
  F(yaw, -1.2f, 1.2f, 0.f, "head turned to image right (positive), radians")                                 \
  F(pitch, -.7f, .7f, 0.f, "head turned up (positive), radians")                                             \
  F(roll, -.8f, .8f, 0.f, "head tilted clockwise in the image (positive), radians")                          \
  F(scale, .5f, 2.f, 1.f, "size of the head in the image")                                                   \
  F(shift_x, -1.f, 1.f, 0.f, "shift to image right, in half image widths")                                   \
  F(shift_y, -1.f, 1.f, 0.f, "shift down, in half image widths")                                             \
  /* light */                                                                                                \
  F(key_azimuth, -1.6f, 1.6f, .5f, "key light: image left (negative) to image right, radians")               \
  F(key_elevation, -.3f, 1.4f, .6f, "key light: height above the horizon, radians")                          \
  F(key_strength, 0.f, 1.6f, 1.f, "brightness of the key light")                                             \
  F(key_warmth, -1.f, 1.f, 0.f, "cold (-1) to warm (1) key light")                                           \
  F(key_softness, 0.f, 1.f, .6f, "hard (0) to soft (1) shadows")                                             \
  F(fill_strength, 0.f, 1.f, .35f, "brightness of the frontal fill light")                                   \
  F(rim_strength, 0.f, 1.f, .2f, "brightness of the light behind the head")                                  \
  F(ambient, 0.f, 1.f, .45f, "brightness of the surroundings")                                               \
  F(second_azimuth, -3.1416f, 3.1416f, -1.2f, "coloured second light: direction, radians")                   \
  F(second_strength, 0.f, 1.f, .1f, "coloured second light: brightness; its colour is background2")          \
  F(exposure, .5f, 1.6f, 1.f, "brightness of the whole picture")                                             \
  F(nir_strength, .4f, 1.6f, 1.f, "brightness of the near-infrared illuminator beside the camera")           \
  F(nir_ambient, 0.f, 1.f, .1f, "near-infrared light of the surroundings")                                   \
  /* background and clothes */                                                                               \
  F(background_kind, 0.f, 4.f, 2.f,                                                                          \
    "0 plain, 1 gradient, 2 studio vignette, 3 blurred lights, 4 blurred room")                              \
  F(background_r, 0.f, 1.f, .55f, "first background colour, red (sRGB)")                                     \
  F(background_g, 0.f, 1.f, .58f, "first background colour, green")                                          \
  F(background_b, 0.f, 1.f, .62f, "first background colour, blue")                                           \
  F(background2_r, 0.f, 1.f, .30f, "second background colour, red")                                          \
  F(background2_g, 0.f, 1.f, .33f, "second background colour, green")                                        \
  F(background2_b, 0.f, 1.f, .38f, "second background colour, blue")                                         \
  F(background_seed, 0.f, 65535.f, 1.f, "whole number that places lights and edges of the background")       \
  F(clothes_r, 0.f, 1.f, .25f, "clothes colour, red (sRGB)")                                                 \
  F(clothes_g, 0.f, 1.f, .30f, "clothes colour, green")                                                      \
  F(clothes_b, 0.f, 1.f, .42f, "clothes colour, blue")                                                       \
  F(clothes_kind, 0.f, 3.f, 0.f, "0 crew neck, 1 collar, 2 V-neck, 3 high neck")                             \
  F(clothes_pattern, 0.f, 1.f, 0.f, "plain (below .5), stripes (.5 to .75), knit (above .75)")

namespace pyface {

enum FaceParam : int {
#define PYFACE_FACE_ENUM(name, low, high, def, doc) kFP_##name,
  PYFACE_FACE_PARAMS(PYFACE_FACE_ENUM)
#undef PYFACE_FACE_ENUM
      kFaceParamCount
};

struct FaceParamInfo {
  const char* name;
  float low, high, def;
  const char* doc;
};

inline constexpr FaceParamInfo kFaceParams[kFaceParamCount] = {
#define PYFACE_FACE_INFO(name, low, high, def, doc) {#name, low, high, def, doc},
    PYFACE_FACE_PARAMS(PYFACE_FACE_INFO)
#undef PYFACE_FACE_INFO
};

// Values of the segmentation output.
enum FaceClass : int {
  kClassBackground = 0,
  kClassSkin = 1,
  kClassEye = 2,
  kClassHair = 3,
  kClassClothes = 4,
  kClassGlasses = 5,
  kClassMouth = 6,
  kClassTeeth = 7,
  kClassLips = 8,
  kClassBrows = 9,
  kClassNeck = 10,
  kClassEars = 11,
};

constexpr int kFaceLandmarks = 73;  // 68 iBUG points, then 5 points

}  // namespace pyface
