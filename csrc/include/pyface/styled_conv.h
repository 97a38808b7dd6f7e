// A whole synthesis layer for inference on the CPU: 3x3 convolution (up = 2: its transpose and the
// [1, 3, 3, 1] filter), demodulation, noise, bias, leaky ReLU, clamp, the next layer's style, and the heads.
//
// Activations are blocked: [channels / B][parts][positions][B] with 64-byte positions (B = 32 bfloat16,
// 16 float32; float32 with AMX: B = 32, three parts in bfloat16 whose sum is the number, else one part),
// channels padded to a multiple of 32 with zeros. The positions of n images of h x w are rows of w + 1, h + 1
// rows an image: one row above the first image and one column left of each row are zero, and so is what lies
// below and right of an image, being the row above the next image and the column left of the next row.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

constexpr int64_t kStyledChannels = 32;      // channels are padded to a multiple of this
constexpr int64_t kStyledHeadChannels = 16;  // most channels that the heads of one layer have together
constexpr int64_t kBlockedSlack = 48;        // positions behind the last one that may be read

[[maybe_unused]] static inline int64_t padded_channels(int64_t channels) {
  return (channels + kStyledChannels - 1) / kStyledChannels * kStyledChannels;
}

// Positions of one channel block.
[[maybe_unused]] static inline int64_t blocked_positions(int64_t n, int64_t h, int64_t w) {
  return (n * (h + 1) + 1) * (w + 1) + 1 + kBlockedSlack;
}

// Bytes of a number in blocked activations and packed weights: on AMX a float32 number is three bfloat16
// ones.
int64_t styled_number_bytes(DType dtype);

// weight [out, in, 3, 3] in float32 in the order in which the CPU at hand convolves with it.
struct PackStyledConvParams {
  const void* weight;
  void* packed;  // 64-byte aligned
  DType dtype;
  int64_t out_channels, in_channels;
  int up;
};

// y = x * scale as blocked activations; x [n or 1, c, h, w] dense float32, scale [n, padded c].
struct BlockActivationsParams {
  const void* x;
  const void* scale;
  void* y;
  DType dtype;
  int64_t n, c, h, w;
  bool shared;  // one x for all samples
};

// v = clamp(lrelu(conv(x) * demod + noise * noise_gain * noise_strength + bias)), y = v * next_style,
// image = clamp(heads . v + head_bias) + below enlarged by the filter [1, 3, 3, 1]. Side tensors are float32,
// channels padded: demod, next_style [n, out]; bias [out]; heads [n, head_channels, out]; noise [n or 1,
// out_h, out_w], noise_strength one number; image [n, head_channels, out_h, out_w], below half its size.
// bias, demod and noise_gain hold the gain of the activation already. May be null: noise; noise_strength
// (1); y (then next_style is not read); heads (then nothing else of the image is); below. clamp < 0: none.
struct StyledConvParams {
  const void* x;  // blocked, x_batch images, of which n from x_first on are taken
  const void* weight;
  const void* demod;
  const void* noise;
  const void* noise_strength;
  const void* bias;
  const void* next_style;
  void* y;  // blocked, y_batch images, of which n from y_first on are written
  const void* heads;
  const void* head_bias;
  const void* below;
  void* image;
  void* workspace;  // styled_conv_workspace(...) bytes, 64-byte aligned
  int64_t n, x_batch, x_first, y_batch, y_first, in_channels, out_channels, in_h, in_w, head_channels;
  double alpha, noise_gain, clamp;
  int64_t chunk_bytes;   // that are worked on at a time; 0: the rule of the plan
  int64_t number_bytes;  // styled_number_bytes(dtype)
  DType dtype;
  int up;
  int noise_per_sample;  // 0 or 1
  int groups_inside;     // up = 2: all output channels of a chunk before the next one; -1: the rule
  int64_t out_h() const { return in_h * up; }
  int64_t out_w() const { return in_w * up; }
};

// Bytes of workspace that a launch with `threads` threads needs.
int64_t styled_conv_workspace(const StyledConvParams& p, int threads);

// Throws Error for bfloat16 where the instruction set in use has no AMX.
void check_styled_isa(const char* op, DType dtype);

inline void check_styled_dtype(const char* op, DType dtype) {
  PYFACE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, op, "dtype",
               std::to_string(static_cast<int>(dtype)), "0 float32, 2 bfloat16");
}

inline void check_aligned(const char* op, const char* argument, const void* pointer) {
  check_pointer(op, argument, pointer);
  PYFACE_CHECK(reinterpret_cast<uintptr_t>(pointer) % 64 == 0, op, argument, "not aligned",
               "an address that is a multiple of 64");
}

inline void validate(const PackStyledConvParams& p) {
  const char* op = "pack_styled_conv";
  check_styled_dtype(op, p.dtype);
  check_int_range(op, "up", p.up, 1, 2);
  check_int_range(op, "out_channels", p.out_channels, 1, 1 << 20);
  check_int_range(op, "in_channels", p.in_channels, 1, 1 << 20);
  check_pointer(op, "weight", p.weight);
  check_aligned(op, "packed", p.packed);
}

inline void validate(const BlockActivationsParams& p) {
  const char* op = "block_activations";
  check_styled_dtype(op, p.dtype);
  PYFACE_CHECK(checked_count(op, "x", {p.n, p.c, p.h, p.w}) > 0, op, "x", "empty", "at least one element");
  check_pointer(op, "x", p.x);
  check_pointer(op, "scale", p.scale);
  check_aligned(op, "y", p.y);
}

inline void validate(const StyledConvParams& p) {
  const char* op = "styled_conv";
  check_styled_dtype(op, p.dtype);
  check_int_range(op, "up", p.up, 1, 2);
  PYFACE_CHECK(checked_count(op, "x", {p.n, p.in_channels, p.in_h, p.in_w}) > 0, op, "x", "empty",
               "at least one element");
  check_int_range(op, "out_channels", p.out_channels, 1, 1 << 20);
  check_int_range(op, "x_first", p.x_first, 0, p.x_batch - p.n);
  check_aligned(op, "x", p.x);
  check_aligned(op, "weight", p.weight);
  check_aligned(op, "workspace", p.workspace);
  check_pointer(op, "demod", p.demod);
  check_pointer(op, "bias", p.bias);
  PYFACE_CHECK(p.alpha >= 0 && p.alpha <= 1, op, "alpha", std::to_string(p.alpha), "0 to 1");
  check_int_range(op, "chunk_bytes", p.chunk_bytes, 0, int64_t{1} << 30);
  check_int_range(op, "groups_inside", p.groups_inside, -1, 1);
  PYFACE_CHECK(p.clamp == p.clamp, op, "clamp", "NaN", "a number; below 0 means none");
  PYFACE_CHECK(p.y != nullptr || p.heads != nullptr, op, "y", "null, and so is heads", "one of them");
  if (p.y != nullptr) {
    check_aligned(op, "y", p.y);
    check_pointer(op, "next_style", p.next_style);
    check_int_range(op, "y_first", p.y_first, 0, p.y_batch - p.n);
  }
  if (p.heads != nullptr) {
    check_pointer(op, "head_bias", p.head_bias);
    check_pointer(op, "image", p.image);
    check_int_range(op, "head_channels", p.head_channels, 1, kStyledHeadChannels);
    PYFACE_CHECK(p.below == nullptr || (p.in_h % 2 == 0 && p.in_w % 2 == 0), op, "below",
                 "given for an image of odd size", "an image of even height and width");
    PYFACE_CHECK(p.up == 1, op, "heads", "given with up = 2", "heads of layers with up = 1");
  }
}

void launch_pack_styled_conv_cpu(const PackStyledConvParams& p, int threads);
void launch_block_activations_cpu(const BlockActivationsParams& p, int threads);
void launch_styled_conv_cpu(const StyledConvParams& p, int threads);

}  // namespace pyface
