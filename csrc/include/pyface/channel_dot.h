// Reductions of gradients on channels-last tensors, in one pass over memory: channel_dot, and the whole
// backward pass of conv_epilogue (and of modulate, which is its linear case).
#pragma once
#include <algorithm>

#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

// Of a and b [n, hw, c]: dot[n,c] = sum_hw a*b; sum[c] = sum_{n,hw} a; place_sum[n,hw] = sum_c a, or
// [hw] and summed over n as well where not `per_sample`. All float32, each may be null; b may be null
// without `dot`. `chunks` parts of hw are summed by blocks of their own and added in order by a second pass;
// `workspace` holds channel_dot_workspace floats.
struct ChannelDotParams {
  const void* a;
  const void* b;
  float* dot;
  float* sum;
  float* place_sum;
  float* workspace;
  DType dtype;
  int64_t n, c, hw;
  bool per_sample;
  int64_t chunks;
};

// The gradients of y = next_style * clamp(gain * act(z)), z = x * demod + noise + bias, for dy [n, hw, c]:
// dx = dz * demod; d_demod[n,c] = sum_hw dz * x; d_noise as `place_sum` and d_bias as `sum` of dz;
// d_next[n,c] = sum_hw dy * clamp(gain * act(z)). x may be null where nothing reads it: a linear epilogue
// without clamp, d_demod and d_next. Outputs may be null.
struct ConvEpilogueGradParams {
  const void* dy;
  const void* x;
  const float* demod;
  const float* noise;
  const float* bias;
  const float* next_style;
  void* dx;
  float* d_demod;
  float* d_noise;
  float* d_bias;
  float* d_next;
  float* workspace;
  DType dtype;
  int64_t n, c, hw;
  bool noise_per_sample;
  Act act;
  double alpha, gain, clamp;
  int64_t chunks;
};

// Channels that a block reads at once; more go to further blocks ("slices").
inline int64_t channel_dot_slices(DType dtype, int64_t c) {
  const int64_t vector = 16 / dtype_size(dtype), at_once = 32 * (c % vector ? 1 : vector);
  return (c + at_once - 1) / at_once;
}
// Chunks that give a device of `multiprocessors` four blocks each, of at least 64 pixels.
inline int64_t channel_dot_chunks(DType dtype, int64_t n, int64_t c, int64_t hw, int multiprocessors) {
  const int64_t blocks = std::max<int64_t>(1, n * channel_dot_slices(dtype, c));
  const int64_t wanted = (4 * int64_t{multiprocessors} + blocks - 1) / blocks;
  return std::max<int64_t>(1, std::min({wanted, (hw + 63) / 64, int64_t{4096}}));
}
// Floats for every output at once.
inline int64_t channel_dot_workspace(DType dtype, int64_t n, int64_t c, int64_t hw, int64_t chunks) {
  return 3 * ((n * chunks * c + 3) / 4 * 4) + channel_dot_slices(dtype, c) * n * hw;
}

inline void validate_reduction(const char* op, DType dtype, int64_t n, int64_t c, int64_t hw) {
  check_dtype(op, dtype);
  PYFACE_CHECK(dtype != DType::kF64, op, "dtype", "1 float64", "0 float32, 2 bfloat16, 3 float16");
  checked_count(op, "x", {n, c, hw});
  check_int_range(op, "n * hw", n * hw, 0, (int64_t{1} << 31) - 1);
  check_int_range(op, "c", c, 0, int64_t{65535} * 32);
}
// Throws Error when the params cannot be launched. The bindings call it before every launch.
inline void validate(const ChannelDotParams& p) {
  const char* op = "channel_dot";
  validate_reduction(op, p.dtype, p.n, p.c, p.hw);
  check_int_range(op, "chunks", p.chunks, 1, std::max<int64_t>(1, p.hw));
  if (p.n * p.c * p.hw == 0) return;
  check_pointer(op, "a", p.a);
  if (p.dot) check_pointer(op, "b", p.b);
  check_pointer(op, "workspace", p.workspace);
}
inline void validate(const ConvEpilogueGradParams& p) {
  const char* op = "conv_epilogue_grad";
  validate_reduction(op, p.dtype, p.n, p.c, p.hw);
  check_act(op, p.act, p.clamp);
  check_int_range(op, "chunks", p.chunks, 1, std::max<int64_t>(1, p.hw));
  if (p.n * p.c * p.hw == 0) return;
  check_pointer(op, "dy", p.dy);
  if (p.d_demod || p.d_next || p.act != Act::kLinear || p.clamp >= 0) check_pointer(op, "x", p.x);
  check_pointer(op, "workspace", p.workspace);
}

void launch_channel_dot_cuda(const ChannelDotParams& p, void* stream);
void launch_conv_epilogue_grad_cuda(const ConvEpilogueGradParams& p, void* stream);
void launch_channel_dot_emu(const ChannelDotParams& p, int schedule);
void launch_conv_epilogue_grad_emu(const ConvEpilogueGradParams& p, int schedule);

}  // namespace pyface
