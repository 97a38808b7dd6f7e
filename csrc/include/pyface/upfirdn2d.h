// upfirdn2d: pad, upsample by zero insertion, filter, downsample.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

// x is dense [n, c, in_h, in_w], y dense [n, c, out_h, out_w]; both NCHW, or both NHWC when channels_last.
// filter: float32 (float64 when dtype is kF64), [filter_h, filter_w]; when `separable`, one vector of
// filter_w taps used on both axes (filter_h == filter_w). The filter is applied as a true convolution unless
// `flip` (then as a correlation). pad_x0/pad_y0 count on the upsampled image; negative crops. out_w = (in_w *
// up_x + pad_x0 + pad_x1 - filter_w) / down_x + 1 is computed by the caller.
struct Upfirdn2dParams {
  const void* x;
  const void* filter;
  void* y;
  DType dtype;
  int64_t n, c, in_h, in_w, out_h, out_w;
  bool channels_last, separable, flip;
  int filter_h, filter_w, up_x, up_y, down_x, down_y, pad_x0, pad_y0;
  double gain;
};

// Throws Error when the params cannot be launched. The bindings call it before every launch.
inline void validate(const Upfirdn2dParams& p) {
  const char* op = "upfirdn2d";
  constexpr int64_t kMaxSide = int64_t{1} << 30;
  check_dtype(op, p.dtype);
  check_int_range(op, "filter_h", p.filter_h, 1, 1 << 15);
  check_int_range(op, "filter_w", p.filter_w, 1, 1 << 15);
  PYFACE_CHECK(!p.separable || p.filter_h == p.filter_w, op, "filter_h",
               std::to_string(p.filter_h) + " with filter_w " + std::to_string(p.filter_w),
               "filter_h equal to filter_w for a separable filter");
  check_int_range(op, "up_x", p.up_x, 1, 1 << 15);
  check_int_range(op, "up_y", p.up_y, 1, 1 << 15);
  check_int_range(op, "down_x", p.down_x, 1, 1 << 15);
  check_int_range(op, "down_y", p.down_y, 1, 1 << 15);
  check_int_range(op, "pad_x0", p.pad_x0, -kMaxSide, kMaxSide);
  check_int_range(op, "pad_y0", p.pad_y0, -kMaxSide, kMaxSide);
  const int64_t inputs = checked_count(op, "x", {p.n, p.c, p.in_h, p.in_w});
  const int64_t outputs = checked_count(op, "y", {p.n, p.c, p.out_h, p.out_w});
  check_int_range(op, "in_w", p.in_w, 0, kMaxSide / p.up_x);
  check_int_range(op, "in_h", p.in_h, 0, kMaxSide / p.up_y);
  check_int_range(op, "out_w", p.out_w, 0, kMaxSide / p.down_x);
  check_int_range(op, "out_h", p.out_h, 0, kMaxSide / p.down_y);
  if (outputs == 0) return;
  check_pointer(op, "filter", p.filter);
  check_pointer(op, "y", p.y);
  if (inputs == 0) return;
  check_pointer(op, "x", p.x);
  PYFACE_CHECK(p.x != p.y, op, "y", "the address of x", "memory that does not overlap x");
}

void launch_upfirdn2d_cpu(const Upfirdn2dParams& p, int threads);
void launch_upfirdn2d_cuda(const Upfirdn2dParams& p, void* stream);
void launch_upfirdn2d_emu(const Upfirdn2dParams& p, int schedule);

}  // namespace pyface
