// The passes around the shared-weight convolution of a modulated convolution:
// style multiply, demodulation coefficients, and the fused epilogue.
#pragma once
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
// noise [n or 1, h*w]. All four are float32 (float64 when dtype is kF64) and may be null. clamp < 0 means none.
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

void launch_modulate_cpu(const ModulateParams& p, int threads);
void launch_demodulate_cpu(const DemodulateParams& p, int threads);
void launch_conv_epilogue_cpu(const ConvEpilogueParams& p, int threads);
void launch_modulate_cuda(const ModulateParams& p, void* stream);
void launch_demodulate_cuda(const DemodulateParams& p, void* stream);
void launch_conv_epilogue_cuda(const ConvEpilogueParams& p, void* stream);
void launch_modulate_emu(const ModulateParams& p, int schedule);
void launch_demodulate_emu(const DemodulateParams& p, int schedule);
void launch_conv_epilogue_emu(const ConvEpilogueParams& p, int schedule);

}  // namespace pyface
