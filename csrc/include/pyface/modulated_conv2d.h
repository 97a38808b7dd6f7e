// The passes around the shared-weight convolution of a modulated convolution:
// style multiply, demodulation coefficients, the fused epilogue, and the weight in the form it convolves in.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

// y[n,c,hw] = x[n,c,hw] * scale[n,c]. scale is float32 (float64 when dtype is kF64).
struct ModulateParams {
  const void* x;
  const void* scale;
  void* y;
  DType dtype;
  int64_t n, c, hw;
  bool channels_last;
};

// demod[n,o] = 1 / sqrt(sum_i weight_sq[o,i] * styles[n,i]^2 + eps); float32 or float64.
struct DemodulateParams {
  const void* weight_sq;
  const void* styles;
  void* demod;
  DType dtype;
  int64_t n, out_channels, in_channels;
  double eps;
};

// y = next_style * clamp(gain * act(x * demod + noise + bias)). demod, next_style [n,c]; bias [c];
// noise [n or 1, h*w]. All four are float32 (float64 when dtype is kF64) and may be null. clamp < 0 means
// none.
struct ConvEpilogueParams {
  const void* x;
  const void* demod;
  const void* noise;
  const void* bias;
  const void* next_style;
  void* y;
  DType dtype;
  int64_t n, c, hw;
  bool channels_last, noise_per_sample;
  Act act;
  double alpha, gain, clamp;
};

// A convolution's weight as it is learned, [out, in, taps] in float32 (float64 when dtype is kF64), and as it
// convolves: times `gain`, the taps in reverse order where `flip`, in `dtype`, channels innermost:
// [out, taps, in], or [in, taps, out] where `transposed`. Packing writes `packed` from `weight`; unpacking,
// its adjoint, writes `weight` from `packed`.
struct PackWeightParams {
  const void* from;
  void* to;
  DType dtype;
  int64_t out_channels, in_channels, taps;
  bool transposed, flip;
  double gain;
};

// Throws Error when the params cannot be launched. The bindings call it before every launch.
inline void validate(const PackWeightParams& p, const char* op) {
  check_dtype(op, p.dtype);
  if (checked_count(op, "weight", {p.out_channels, p.in_channels, p.taps}) == 0) return;
  check_pointer(op, "from", p.from);
  check_pointer(op, "to", p.to);
}

inline void validate(const ModulateParams& p) {
  const char* op = "modulate";
  check_dtype(op, p.dtype);
  if (checked_count(op, "x", {p.n, p.c, p.hw}) == 0) return;
  check_pointer(op, "x", p.x);
  check_pointer(op, "scale", p.scale);
  check_pointer(op, "y", p.y);
}

inline void validate(const DemodulateParams& p) {
  const char* op = "demodulate";
  check_dtype(op, p.dtype);
  PYFACE_CHECK(p.dtype == DType::kF32 || p.dtype == DType::kF64, op, "dtype",
               std::to_string(static_cast<int>(p.dtype)), "0 float32, 1 float64");
  PYFACE_CHECK(p.eps >= 0, op, "eps", std::to_string(p.eps), "0 or more");
  const int64_t weights = checked_count(op, "weight_sq", {p.out_channels, p.in_channels});
  const int64_t styles = checked_count(op, "styles", {p.n, p.in_channels});
  if (checked_count(op, "demod", {p.n, p.out_channels}) == 0) return;
  check_pointer(op, "demod", p.demod);
  if (weights == 0 || styles == 0) return;
  check_pointer(op, "weight_sq", p.weight_sq);
  check_pointer(op, "styles", p.styles);
}

inline void validate(const ConvEpilogueParams& p) {
  const char* op = "conv_epilogue";
  check_dtype(op, p.dtype);
  check_act(op, p.act, p.clamp);
  if (checked_count(op, "x", {p.n, p.c, p.hw}) == 0) return;
  check_pointer(op, "x", p.x);
  check_pointer(op, "y", p.y);
}

void launch_modulate_cpu(const ModulateParams& p, int threads);
void launch_demodulate_cpu(const DemodulateParams& p, int threads);
void launch_conv_epilogue_cpu(const ConvEpilogueParams& p, int threads);
void launch_pack_weight_cpu(const PackWeightParams& p, int threads);
void launch_unpack_weight_cpu(const PackWeightParams& p, int threads);
void launch_modulate_cuda(const ModulateParams& p, void* stream);
void launch_demodulate_cuda(const DemodulateParams& p, void* stream);
void launch_conv_epilogue_cuda(const ConvEpilogueParams& p, void* stream);
void launch_pack_weight_cuda(const PackWeightParams& p, void* stream);
void launch_unpack_weight_cuda(const PackWeightParams& p, void* stream);
void launch_modulate_emu(const ModulateParams& p, int schedule);
void launch_demodulate_emu(const DemodulateParams& p, int schedule);
void launch_conv_epilogue_emu(const ConvEpilogueParams& p, int schedule);
void launch_pack_weight_emu(const PackWeightParams& p, int schedule);
void launch_unpack_weight_emu(const PackWeightParams& p, int schedule);

}  // namespace pyface
