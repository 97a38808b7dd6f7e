// upconv2d: a synthesis layer that doubles the size, in one launch: transposed 3x3 convolution of an NHWC
// tensor, low-pass filter, demodulation, noise, bias, activation, clamp and the next layer's style.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

constexpr int kUpconvTiles = 3;
constexpr int64_t kUpconvMaxChannels = 4096;  // their styles lie in shared memory

// With u the transposed convolution of style * x, of stride 2 and [2 h + 1, 2 w + 1] pixels,
//   u[n,2 i + a,2 j + b,o] = sum of weight[o,ky,kx,:] . (style x)[n,i - (ky > 1),j - (kx > 1),:],
//                            ky = a and a + 2, kx = b and b + 2 as far as they are below 3,
//   v[n,y,x,o] = 4 sum_{s,t} filter[3 - s,3 - t] u[n,y - 1 + s,x - 1 + t,o]
//   y[n,y,x,o] = next_style[n,o] * clamp(gain * act(demod[n,o] * v[n,y,x,o] + noise[n,y,x] + bias[o])).
// The taps of the weight are those of torch's conv_transpose2d, laid out [O, taps, I]. Products are summed in
// float32; demod * u is rounded to dtype once between the convolution and the filter, and what enters an
// activation other than linear, relu and lrelu once more: that follows in a pass of its own.
struct Upconv2dParams {
  const void* x;           // [n, h, w, in_channels]
  const void* weight;      // [out_channels, 9, in_channels], as pack_weight writes it
  const void* style;       // float32 [n, in_channels], or null
  const void* filter;      // float32 [4]: filter[s,t] = f[s] f[t]; or [4, 4] where filter_is_matrix
  const void* demod;       // float32 [n, out_channels], or null
  const void* noise;       // float32 [n or 1, 2 h, 2 w], or null
  const void* bias;        // float32 [out_channels], or null
  const void* next_style;  // float32 [n, out_channels], or null
  void* y;                 // [n, 2 h, 2 w, out_channels]
  DType dtype;             // of x, weight and y: float32, bfloat16 or float16
  int64_t n, h, w, in_channels, out_channels;
  bool filter_is_matrix;  // it must be an outer product whose sum is not 0
  bool noise_per_sample;
  Act act;
  double alpha, gain, clamp;  // clamp < 0 means none
  int tile, steps;            // -1 and 0: by rule; upconv2d.cuh names the tiles
};

// How a launch goes. Positions are pixels of u by fours: (2 i, 2 j) to (2 i + 1, 2 j + 1).
struct Upconv2dPlan {
  bool tensor_cores;
  int tile;                        // of the tensor-core kernel, else -1
  int width, rows, channels;       // of a step: positions across and down, output channels
  int steps;                       // of a block, downwards
  int64_t column_tiles, segments;  // of an image; a segment is the rows of one block
  int64_t channel_tiles, blocks, threads, shared_bytes;
};

// Throws Error when the sizes and settings cannot be launched; looks at no pointer.
inline void validate_sizes(const Upconv2dParams& p) {
  const char* op = "upconv2d";
  check_dtype(op, p.dtype);
  PYFACE_CHECK(p.dtype != DType::kF64, op, "dtype", "1", "0 float32, 2 bfloat16, 3 float16");
  check_act(op, p.act, p.clamp);
  check_int_range(op, "tile", p.tile, -1, kUpconvTiles - 1);
  check_int_range(op, "steps", p.steps, 0, 1 << 20);
  check_int_range(op, "in_channels", p.in_channels, 0, kUpconvMaxChannels);
  check_int_range(op, "out_channels", p.out_channels, 0, 1 << 20);
  check_int_range(op, "h", p.h, 0, 1 << 20);
  check_int_range(op, "w", p.w, 0, 1 << 20);
  checked_count(op, "x", {p.n, p.h, p.w, p.in_channels});
  checked_count(op, "y", {p.n, 4, p.h, p.w, p.out_channels});
}

inline void validate(const Upconv2dParams& p) {
  const char* op = "upconv2d";
  validate_sizes(p);
  if (checked_count(op, "y", {p.n, p.h, p.w, p.out_channels}) == 0) return;
  check_pointer(op, "y", p.y);
  check_pointer(op, "filter", p.filter);
  if (p.in_channels == 0) return;
  check_pointer(op, "x", p.x);
  check_pointer(op, "weight", p.weight);
}

void launch_upconv2d_cuda(const Upconv2dParams& p, void* stream);
void launch_upconv2d_emu(const Upconv2dParams& p, int schedule);
Upconv2dPlan plan_upconv2d_cuda(const Upconv2dParams& p, void* stream);
Upconv2dPlan plan_upconv2d_emu(const Upconv2dParams& p, int schedule);

}  // namespace pyface
