// bias_act: y = clamp(gain * act(x + b)) and its first derivative.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

// x, y are dense [outer, channels, inner] in memory (channels_last tensors: inner = 1).
// bias has `channels` elements of the same dtype, or is null. clamp < 0 means none.
struct BiasActParams {
  const void* x;
  const void* bias;
  void* y;
  DType dtype;
  int64_t outer, channels, inner;
  Act act;
  double alpha, gain, clamp;
};

// dx = dy * gain * act'(pre), 0 where |y| >= clamp. `ref` is the input x (with bias) for swish, else the
// output y.
struct BiasActGradParams {
  const void* dy;
  const void* ref;
  const void* bias;
  void* dx;
  DType dtype;
  int64_t outer, channels, inner;
  Act act;
  double alpha, gain, clamp;
};

// Throws Error when the params cannot be launched. The bindings call it before every launch.
inline void validate(const BiasActParams& p) {
  const char* op = "bias_act";
  check_dtype(op, p.dtype);
  check_act(op, p.act, p.clamp);
  if (checked_count(op, "x", {p.outer, p.channels, p.inner}) == 0) return;
  check_pointer(op, "x", p.x);
  check_pointer(op, "y", p.y);
}

inline void validate(const BiasActGradParams& p) {
  const char* op = "bias_act_grad";
  check_dtype(op, p.dtype);
  check_act(op, p.act, p.clamp);
  if (checked_count(op, "dy", {p.outer, p.channels, p.inner}) == 0) return;
  check_pointer(op, "dy", p.dy);
  check_pointer(op, "ref", p.ref);
  check_pointer(op, "dx", p.dx);
}

// `threads`: at most this many OpenMP threads.
void launch_bias_act_cpu(const BiasActParams& p, int threads);
void launch_bias_act_grad_cpu(const BiasActGradParams& p, int threads);
// `stream`: a cudaStream_t.
void launch_bias_act_cuda(const BiasActParams& p, void* stream);
void launch_bias_act_grad_cuda(const BiasActGradParams& p, void* stream);
// `schedule`: 0 forward, 1 reverse, 2 random order of the emulated threads.
void launch_bias_act_emu(const BiasActParams& p, int schedule);
void launch_bias_act_grad_emu(const BiasActGradParams& p, int schedule);

}  // namespace pyface
