// conv2d: a convolution of NHWC tensors with shared weights, its input styled, its output finished in one
// pass, and pictures made of the output where it lies in registers.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

constexpr int kMaxHeads = 8;
constexpr int kConvTiles = 7;

// y[n,oy,ox,o] = next_style[n,o] * v,
// v = clamp(gain * act(demod[n,o] * sum_{tap,i} weight[o,tap,i] * style[n,i] * x[n,iy,ix,i] + noise +
// bias[o])) with iy = oy * stride - pad_y + ky, or, where `transposed`, the iy with iy * stride = oy + pad_y
// - ky (the taps of torch's conv_transpose2d, whose weight [I, O, kh, kw] is laid out [O, taps, I] here).
// Pixels outside x are 0. Then, for each head k: image[n,k,oy,ox] = base + clamp_h(sum_o heads[n,k,o] * v +
// head_bias[k]), where base is `skip` (half the size) upsampled by two with `skip_filter`, the image's old
// value where `add_to_image`, or 0.
struct Conv2dParams {
  const void* x;           // [n, h, w, in_channels]
  const void* weight;      // [out_channels, kernel * kernel, in_channels], as pack_weight writes it
  const void* style;       // float32 [n, in_channels], or null
  const void* demod;       // float32 [n, out_channels], or null
  const void* noise;       // float32 [n or 1, out_h, out_w], or null
  const void* bias;        // float32 [out_channels], or null
  const void* next_style;  // float32 [n, out_channels], or null
  void* y;                 // [n, out_h, out_w, out_channels]; may be null where fused heads are all one wants
  const void* heads;       // float32 [n, head_count, out_channels], or null
  const void* head_bias;   // float32 [head_count], or null
  const void* skip;        // float32 [n, head_count, out_h / 2, out_w / 2], or null
  const void* skip_filter;  // float32 [4, 4], its sum 1; with `skip`
  void* image;              // float32 [n, head_count, out_h, out_w], with `heads`
  void* workspace;          // conv2d_plan says how many bytes, 16-byte aligned
  int64_t workspace_bytes;
  DType dtype;  // of x, weight and y: float32, bfloat16 or float16
  int64_t n, h, w, in_channels, out_h, out_w, out_channels;
  int kernel, stride, pad_y, pad_x;
  bool transposed, noise_per_sample;
  Act act;
  double alpha, gain, clamp;  // clamp < 0 means none
  int head_count;
  double head_clamp;  // < 0 means none
  bool add_to_image;
  // -1 and 0: by rule. Tiles, pixels x channels: 0 128x128, 1 128x64, 2 64x64, 3 128x32; 4, 5, 6 are 0, 1, 3
  // over patches of 8 x 16 pixels (3x3 taps of stride 1, no splits).
  int tile, splits;
};

// How a launch goes: its tile, into how many parts the sum over taps and channels is split, the bytes of
// workspace it needs, and whether the heads are made inside it (or by a pass over y).
struct Conv2dPlan {
  bool tensor_cores;
  int tile, rows, columns, splits;
  int group;        // images that share tiles
  int64_t samples;  // of a launch; more go in several launches
  int64_t workspace_bytes;
  bool fused_heads;
};

// Throws Error when the sizes and settings cannot be launched; looks at no pointer.
inline void validate_sizes(const Conv2dParams& p) {
  const char* op = "conv2d";
  check_dtype(op, p.dtype);
  PYFACE_CHECK(p.dtype != DType::kF64, op, "dtype", "1", "0 float32, 2 bfloat16, 3 float16");
  check_act(op, p.act, p.clamp);
  PYFACE_CHECK(p.head_clamp == p.head_clamp, op, "head_clamp", "NaN", "a number; below 0 means none");
  PYFACE_CHECK(p.kernel == 1 || p.kernel == 3, op, "kernel", std::to_string(p.kernel), "1 or 3");
  check_int_range(op, "stride", p.stride, 1, 2);
  check_int_range(op, "pad_y", p.pad_y, 0, 64);
  check_int_range(op, "pad_x", p.pad_x, 0, 64);
  check_int_range(op, "head_count", p.head_count, 0, kMaxHeads);
  check_int_range(op, "tile", p.tile, -1, kConvTiles - 1);
  check_int_range(op, "splits", p.splits, 0, 1024);
  for (int64_t size : {p.h, p.w, p.in_channels, p.out_h, p.out_w, p.out_channels})
    check_int_range(op, "a size", size, 0, (1 << 24) - 1);
  checked_count(op, "x", {p.n, p.h, p.w, p.in_channels});
  checked_count(op, "y", {p.n, p.out_h, p.out_w, p.out_channels});
  checked_count(op, "weight", {p.out_channels, p.kernel * p.kernel, p.in_channels});
}

inline void validate(const Conv2dParams& p) {
  const char* op = "conv2d";
  validate_sizes(p);
  if (checked_count(op, "y", {p.n, p.out_h, p.out_w, p.out_channels}) == 0) return;
  if (checked_count(op, "x", {p.n, p.h, p.w, p.in_channels}) != 0) {
    check_pointer(op, "x", p.x);
    check_pointer(op, "weight", p.weight);
  }
  if (p.heads == nullptr) {
    check_pointer(op, "y", p.y);
    return;
  }
  check_int_range(op, "head_count", p.head_count, 1, kMaxHeads);
  check_pointer(op, "image", p.image);
  if (p.skip == nullptr) return;
  check_pointer(op, "skip_filter", p.skip_filter);
  PYFACE_CHECK(p.out_h % 2 == 0 && p.out_w % 2 == 0, op, "out_h, out_w",
               std::to_string(p.out_h) + ", " + std::to_string(p.out_w), "even sizes where there is a skip");
  PYFACE_CHECK(!p.add_to_image, op, "add_to_image", "true beside a skip", "one of the two");
}

// For the heads alone, of a y that is there already: y, its sizes and all that has to do with heads.
inline void validate_heads(const Conv2dParams& p) {
  const char* op = "conv2d_heads";
  check_dtype(op, p.dtype);
  PYFACE_CHECK(p.dtype != DType::kF64, op, "dtype", "1", "0 float32, 2 bfloat16, 3 float16");
  PYFACE_CHECK(p.head_clamp == p.head_clamp, op, "head_clamp", "NaN", "a number; below 0 means none");
  check_int_range(op, "head_count", p.head_count, 1, kMaxHeads);
  for (int64_t size : {p.out_h, p.out_w, p.out_channels})
    check_int_range(op, "a size", size, 0, (1 << 24) - 1);
  check_int_range(op, "n", p.n, 0, 65535);
  if (checked_count(op, "y", {p.n, p.out_h, p.out_w, p.out_channels}) == 0) return;
  checked_count(op, "image", {p.n, p.head_count, p.out_h, p.out_w});
  check_pointer(op, "y", p.y);
  check_pointer(op, "heads", p.heads);
  check_pointer(op, "image", p.image);
  if (p.skip == nullptr) return;
  check_pointer(op, "skip_filter", p.skip_filter);
  PYFACE_CHECK(p.out_h % 2 == 0 && p.out_w % 2 == 0, op, "h, w",
               std::to_string(p.out_h) + ", " + std::to_string(p.out_w), "even sizes where there is a skip");
  PYFACE_CHECK(!p.add_to_image, op, "add_to_image", "true beside a skip", "one of the two");
}

void launch_conv2d_cuda(const Conv2dParams& p, void* stream);
void launch_conv2d_heads_cuda(const Conv2dParams& p, void* stream);
void launch_conv2d_heads_emu(const Conv2dParams& p, int schedule);
void launch_conv2d_emu(const Conv2dParams& p, int schedule);
// The plan for params whose pointers say only which tensors there are and how they are aligned.
Conv2dPlan plan_conv2d_cuda(const Conv2dParams& p, void* stream);
Conv2dPlan plan_conv2d_emu(const Conv2dParams& p, int schedule);

}  // namespace pyface
