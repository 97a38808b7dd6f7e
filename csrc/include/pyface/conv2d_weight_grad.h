// conv2d_weight_grad: the gradient of a convolution's weight, on channels-last tensors.
#pragma once
#include <algorithm>

#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

// x [n, in_h, in_w, in_channels] was convolved to y [n, out_h, out_w, out_channels], and dy is y's gradient.
//   plain        dw[o,ky,kx,i] = sum_{n,oy,ox} dy[n,oy,ox,o] demod[n,o]
//                                              * x[n, oy*stride-pad_y+ky, ox*stride-pad_x+kx, i] style[n,i]
//   transposed   dw[i,ky,kx,o] = sum_{n,iy,ix} x[n,iy,ix,i] style[n,i]
//                                              * dy[n, iy*stride-pad_y+ky, ix*stride-pad_x+kx, o] demod[n,o]
// What lies outside is 0. style and demod are float32 and may be null; 16-bit tensors take them rounded to
// their own type. Sums are float32. dw has the type of x. The sum over pixels is cut into `splits` parts,
// which a second pass adds in order; `workspace` holds conv2d_weight_grad_workspace floats (null for one
// split).
struct Conv2dWeightGradParams {
  const void* x;
  const void* dy;
  const float* style;
  const float* demod;
  void* dw;
  float* workspace;
  DType dtype;
  int64_t n, in_h, in_w, in_channels, out_h, out_w, out_channels;
  int kernel_h, kernel_w, stride, pad_y, pad_x;
  bool transposed;
  int64_t splits;

  // The tensor whose pixels the sum runs over gives dw's rows, the other one its columns.
  int64_t row_channels() const { return transposed ? in_channels : out_channels; }
  int64_t column_channels() const { return transposed ? out_channels : in_channels; }
  int64_t places() const { return transposed ? in_h * in_w : out_h * out_w; }
  int64_t taps() const { return int64_t{kernel_h} * kernel_w; }
};

// Rows, columns and pixels that one block multiplies, and how many channels one 16-byte copy moves.
struct WeightGradTile {
  int rows, columns, pixels, vector;
};
inline WeightGradTile weight_grad_tile(const Conv2dWeightGradParams& p) {
  if (p.dtype == DType::kF32) return {64, 64, 16, 4};
  const bool aligned = p.row_channels() % 8 == 0 && p.column_channels() % 8 == 0;
  const int64_t columns = p.taps() * p.column_channels();
  if (!aligned || p.row_channels() <= 64) return {64, 64, 32, 8};
  return columns <= 64 ? WeightGradTile{128, 64, 32, 8} : WeightGradTile{128, 128, 32, 8};
}
// dw's columns as blocks count them: the channels of each tap rounded up to whole copies.
inline int64_t weight_grad_columns(const Conv2dWeightGradParams& p) {
  const int vector = weight_grad_tile(p).vector;
  return p.taps() * ((p.column_channels() + vector - 1) / vector) * vector;
}

// The number of splits that gives a device of `multiprocessors` two blocks each, with at least four tiles of
// pixels a split.
inline int64_t conv2d_weight_grad_splits(const Conv2dWeightGradParams& p, int multiprocessors) {
  const WeightGradTile tile = weight_grad_tile(p);
  const auto parts = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t blocks = parts(p.row_channels(), tile.rows) * parts(weight_grad_columns(p), tile.columns);
  const int64_t wanted = parts(2 * int64_t{multiprocessors}, std::max<int64_t>(blocks, 1));
  const int64_t most = std::max<int64_t>(1, parts(p.n * p.places(), tile.pixels) / 4);
  return std::min({wanted, most, int64_t{65535}});
}
inline int64_t conv2d_weight_grad_workspace(const Conv2dWeightGradParams& p) {
  return p.splits > 1 ? p.splits * p.row_channels() * p.taps() * p.column_channels() : 0;
}

// Throws Error when the params cannot be launched. The bindings call it before every launch.
inline void validate_sizes(const Conv2dWeightGradParams& p) {
  const char* op = "conv2d_weight_grad";
  check_dtype(op, p.dtype);
  PYFACE_CHECK(p.dtype != DType::kF64, op, "dtype", "1 float64", "0 float32, 2 bfloat16, 3 float16");
  check_int_range(op, "kernel_h", p.kernel_h, 1, 16);
  check_int_range(op, "kernel_w", p.kernel_w, 1, 16);
  check_int_range(op, "stride", p.stride, 1, 2);
  check_int_range(op, "pad_y", p.pad_y, 0, 1 << 20);
  check_int_range(op, "pad_x", p.pad_x, 0, 1 << 20);
  checked_count(op, "x", {p.n, p.in_h, p.in_w, p.in_channels});
  checked_count(op, "dy", {p.n, p.out_h, p.out_w, p.out_channels});
  checked_count(op, "dw", {p.out_channels, p.kernel_h, p.kernel_w, p.in_channels});
  const int64_t limit = (int64_t{1} << 31) - 1;
  check_int_range(op, "n * in_h * in_w", p.n * p.in_h * p.in_w, 0, limit);
  check_int_range(op, "n * out_h * out_w", p.n * p.out_h * p.out_w, 0, limit);
  check_int_range(op, "row channels", p.row_channels(), 0, limit - 128);
  check_int_range(op, "kernel_h * kernel_w * column channels", p.taps() * (p.column_channels() + 8), 0,
                  limit - 128);
  const auto check_size = [&](const char* name, int64_t in, int64_t out, int kernel, int pad) {
    const int64_t small = p.transposed ? in : out, large = p.transposed ? out : in;
    const int64_t rest = large - ((small - 1) * p.stride - 2 * int64_t{pad} + kernel);
    PYFACE_CHECK(rest >= 0 && rest < p.stride, op, name,
                 std::to_string(out) + " for an input of " + std::to_string(in),
                 "the size that kernel " + std::to_string(kernel) + ", stride " + std::to_string(p.stride) +
                     " and padding " + std::to_string(pad) + " give");
  };
  if (p.n * p.in_h * p.in_w * p.out_h * p.out_w == 0) return;
  check_size("out_h", p.in_h, p.out_h, p.kernel_h, p.pad_y);
  check_size("out_w", p.in_w, p.out_w, p.kernel_w, p.pad_x);
}
inline void validate(const Conv2dWeightGradParams& p) {
  const char* op = "conv2d_weight_grad";
  validate_sizes(p);
  check_int_range(op, "splits", p.splits, 1, 65535);
  if (p.row_channels() * p.column_channels() == 0) return;
  check_pointer(op, "dw", p.dw);
  if (p.splits > 1) check_pointer(op, "workspace", p.workspace);
  if (p.n * p.places() == 0) return;
  check_pointer(op, "x", p.x);
  check_pointer(op, "dy", p.dy);
}

void launch_conv2d_weight_grad_cuda(const Conv2dWeightGradParams& p, void* stream);
void launch_conv2d_weight_grad_emu(const Conv2dWeightGradParams& p, int schedule);

}  // namespace pyface
