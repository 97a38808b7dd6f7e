// upfirdn2d: pad, upsample by zero insertion, filter, downsample.
#pragma once
#include "pyface/types.h"

namespace pyface {

// x is dense [n, c, in_h, in_w], y dense [n, c, out_h, out_w]; both NCHW, or both NHWC when channels_last.
// filter: float32 (float64 when dtype is kF64), [filter_h, filter_w]; when `separable`, one vector of filter_w taps
// used on both axes (filter_h == filter_w). The filter is applied as a true convolution unless `flip`
// (then as a correlation). pad_x0/pad_y0 count on the upsampled image; negative crops.
// out_w = (in_w * up_x + pad_x0 + pad_x1 - filter_w) / down_x + 1 is computed by the caller.
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

void launch_upfirdn2d_cpu(const Upfirdn2dParams& p, int threads);
void launch_upfirdn2d_cuda(const Upfirdn2dParams& p, void* stream);
void launch_upfirdn2d_emu(const Upfirdn2dParams& p, int schedule);

}  // namespace pyface
