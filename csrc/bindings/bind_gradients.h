// Binds the gradient kernels, which the CUDA kernels and their emulation alone have: _cuda and _emu.
#pragma once
#include <utility>

#include "bindings/bind_ops.h"
#include "pyface/channel_dot.h"
#include "pyface/conv2d_weight_grad.h"

namespace pyface {

template <class Where>
struct GradientLaunchers {
  void (*conv2d_weight_grad)(const Conv2dWeightGradParams&, Where);
  void (*channel_dot)(const ChannelDotParams&, Where);
  void (*conv_epilogue_grad)(const ConvEpilogueGradParams&, Where);
};

template <class Where, class... Rest>
GradientLaunchers(void (*)(const Conv2dWeightGradParams&, Where), Rest...) -> GradientLaunchers<Where>;

#define PYFACE_GRADIENT_LAUNCHERS(backend)                                                 \
  ::pyface::GradientLaunchers {                                                            \
    ::pyface::launch_conv2d_weight_grad_##backend, ::pyface::launch_channel_dot_##backend, \
        ::pyface::launch_conv_epilogue_grad_##backend                                      \
  }

inline const float* floats(Address address) { return reinterpret_cast<const float*>(address); }
inline float* floats_out(Address address) { return reinterpret_cast<float*>(address); }

template <class Where>
void bind_conv2d_weight_grad(pybind11::module_& m, void (*launch)(const Conv2dWeightGradParams&, Where)) {
  using pybind11::arg;
  using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;
  m.def(
      "conv2d_weight_grad",
      [launch](Address x, Address dy, Address style, Address demod, Address dw, Address workspace, int dtype,
               int64_t n, int64_t in_h, int64_t in_w, int64_t in_channels, int64_t out_h, int64_t out_w,
               int64_t out_channels, int kernel_h, int kernel_w, int stride, int pad_y, int pad_x,
               bool transposed, int64_t splits, WhereArgument<Where> where) {
        const Conv2dWeightGradParams p{in(x),         in(dy),
                                       floats(style), floats(demod),
                                       out(dw),       floats_out(workspace),
                                       DType(dtype),  n,
                                       in_h,          in_w,
                                       in_channels,   out_h,
                                       out_w,         out_channels,
                                       kernel_h,      kernel_w,
                                       stride,        pad_y,
                                       pad_x,         transposed,
                                       splits};
        validate(p);
        launch(p, to_where<Where>(where));
      },
      arg("x"), arg("dy"), arg("style"), arg("demod"), arg("dw"), arg("workspace"), arg("dtype"), arg("n"),
      arg("in_h"), arg("in_w"), arg("in_channels"), arg("out_h"), arg("out_w"), arg("out_channels"),
      arg("kernel_h"), arg("kernel_w"), arg("stride"), arg("pad_y"), arg("pad_x"), arg("transposed"),
      arg("splits"), arg("where"), Unlocked(), "The gradient of a convolution's weight; NHWC tensors.");
  m.def(
      "conv2d_weight_grad_plan",
      [](int dtype, int64_t n, int64_t in_h, int64_t in_w, int64_t in_channels, int64_t out_h, int64_t out_w,
         int64_t out_channels, int kernel_h, int kernel_w, int stride, int pad_y, int pad_x, bool transposed,
         int multiprocessors) {
        Conv2dWeightGradParams p{};
        p.dtype = DType(dtype);
        p.n = n, p.in_h = in_h, p.in_w = in_w, p.in_channels = in_channels;
        p.out_h = out_h, p.out_w = out_w, p.out_channels = out_channels;
        p.kernel_h = kernel_h, p.kernel_w = kernel_w, p.stride = stride, p.pad_y = pad_y, p.pad_x = pad_x;
        p.transposed = transposed;
        validate_sizes(p);
        p.splits = conv2d_weight_grad_splits(p, multiprocessors);
        return std::make_pair(p.splits, conv2d_weight_grad_workspace(p));
      },
      arg("dtype"), arg("n"), arg("in_h"), arg("in_w"), arg("in_channels"), arg("out_h"), arg("out_w"),
      arg("out_channels"), arg("kernel_h"), arg("kernel_w"), arg("stride"), arg("pad_y"), arg("pad_x"),
      arg("transposed"), arg("multiprocessors"),
      "(splits, floats of workspace) for a device of so many multiprocessors.");
}

template <class Where>
void bind_gradients(pybind11::module_& m, GradientLaunchers<Where> launch) {
  using pybind11::arg;
  using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;
  using W = WhereArgument<Where>;
  bind_conv2d_weight_grad(m, launch.conv2d_weight_grad);
  m.def(
      "channel_dot_plan",
      [](int dtype, int64_t n, int64_t c, int64_t hw, int multiprocessors) {
        validate_reduction("channel_dot", DType(dtype), n, c, hw);
        const int64_t chunks = channel_dot_chunks(DType(dtype), n, c, hw, multiprocessors);
        return std::make_pair(chunks, channel_dot_workspace(DType(dtype), n, c, hw, chunks));
      },
      arg("dtype"), arg("n"), arg("c"), arg("hw"), arg("multiprocessors"),
      "(chunks, floats of workspace) of channel_dot and conv_epilogue_grad.");
  m.def(
      "channel_dot",
      [run = launch.channel_dot](Address a, Address b, Address dot, Address sum, Address place_sum,
                                 Address workspace, int dtype, int64_t n, int64_t c, int64_t hw,
                                 bool per_sample, int64_t chunks, W where) {
        const ChannelDotParams p{in(a),
                                 in(b),
                                 floats_out(dot),
                                 floats_out(sum),
                                 floats_out(place_sum),
                                 floats_out(workspace),
                                 DType(dtype),
                                 n,
                                 c,
                                 hw,
                                 per_sample,
                                 chunks};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("a"), arg("b"), arg("dot"), arg("sum"), arg("place_sum"), arg("workspace"), arg("dtype"), arg("n"),
      arg("c"), arg("hw"), arg("per_sample"), arg("chunks"), arg("where"), Unlocked(),
      "Sums of a*b over pixels, of a over pixels and samples, and of a over channels; NHWC tensors.");
  m.def(
      "conv_epilogue_grad",
      [run = launch.conv_epilogue_grad](Address dy, Address x, Address demod, Address noise, Address bias,
                                        Address next_style, Address dx, Address d_demod, Address d_noise,
                                        Address d_bias, Address d_next, Address workspace, int dtype,
                                        int64_t n, int64_t c, int64_t hw, bool noise_per_sample, int act,
                                        double alpha, double gain, double clamp, int64_t chunks, W where) {
        const ConvEpilogueGradParams p{in(dy),
                                       in(x),
                                       floats(demod),
                                       floats(noise),
                                       floats(bias),
                                       floats(next_style),
                                       out(dx),
                                       floats_out(d_demod),
                                       floats_out(d_noise),
                                       floats_out(d_bias),
                                       floats_out(d_next),
                                       floats_out(workspace),
                                       DType(dtype),
                                       n,
                                       c,
                                       hw,
                                       noise_per_sample,
                                       Act(act),
                                       alpha,
                                       gain,
                                       clamp,
                                       chunks};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("dy"), arg("x"), arg("demod"), arg("noise"), arg("bias"), arg("next_style"), arg("dx"),
      arg("d_demod"), arg("d_noise"), arg("d_bias"), arg("d_next"), arg("workspace"), arg("dtype"), arg("n"),
      arg("c"), arg("hw"), arg("noise_per_sample"), arg("act"), arg("alpha"), arg("gain"), arg("clamp"),
      arg("chunks"), arg("where"), Unlocked(),
      "Every gradient of conv_epilogue in one pass over dy and x; NHWC tensors.");
}

}  // namespace pyface
