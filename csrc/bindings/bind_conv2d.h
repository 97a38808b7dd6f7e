// Binds conv2d of one backend: its kernels stand on tensor cores, so that there is none for the CPU.
#pragma once
#include "bindings/bind_ops.h"
#include "pyface/conv2d.h"

namespace pyface {

template <class Where>
void bind_conv2d(pybind11::module_& m, void (*launch)(const Conv2dParams&, Where),
                 Conv2dPlan (*plan)(const Conv2dParams&, Where)) {
  using pybind11::arg;
  using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;
  using W = WhereArgument<Where>;
  m.def(
      "conv2d",
      [launch](Address x, Address weight, Address style, Address demod, Address noise, Address bias,
               Address next_style, Address y, Address heads, Address head_bias, Address skip,
               Address skip_filter, Address image, Address workspace, int64_t workspace_bytes, int dtype,
               int64_t n, int64_t h, int64_t w, int64_t in_channels, int64_t out_h, int64_t out_w,
               int64_t out_channels, int kernel, int stride, int pad_y, int pad_x, bool transposed,
               bool noise_per_sample, int act, double alpha, double gain, double clamp, int head_count,
               double head_clamp, bool add_to_image, int tile, int splits, W where) {
        const Conv2dParams p{in(x),
                             in(weight),
                             in(style),
                             in(demod),
                             in(noise),
                             in(bias),
                             in(next_style),
                             out(y),
                             in(heads),
                             in(head_bias),
                             in(skip),
                             in(skip_filter),
                             out(image),
                             out(workspace),
                             workspace_bytes,
                             DType(dtype),
                             n,
                             h,
                             w,
                             in_channels,
                             out_h,
                             out_w,
                             out_channels,
                             kernel,
                             stride,
                             pad_y,
                             pad_x,
                             transposed,
                             noise_per_sample,
                             Act(act),
                             alpha,
                             gain,
                             clamp,
                             head_count,
                             head_clamp,
                             add_to_image,
                             tile,
                             splits};
        validate(p);
        launch(p, to_where<Where>(where));
      },
      arg("x"), arg("weight"), arg("style"), arg("demod"), arg("noise"), arg("bias"), arg("next_style"),
      arg("y"), arg("heads"), arg("head_bias"), arg("skip"), arg("skip_filter"), arg("image"),
      arg("workspace"), arg("workspace_bytes"), arg("dtype"), arg("n"), arg("h"), arg("w"),
      arg("in_channels"), arg("out_h"), arg("out_w"), arg("out_channels"), arg("kernel"), arg("stride"),
      arg("pad_y"), arg("pad_x"), arg("transposed"), arg("noise_per_sample"), arg("act"), arg("alpha"),
      arg("gain"), arg("clamp"), arg("head_count"), arg("head_clamp"), arg("add_to_image"), arg("tile"),
      arg("splits"), arg("where"), Unlocked(),
      "A convolution of NHWC tensors with its style, epilogue and heads: see pyface/conv2d.h.");
  m.def(
      "conv2d_plan",
      [plan](int dtype, int64_t n, int64_t h, int64_t w, int64_t in_channels, int64_t out_h, int64_t out_w,
             int64_t out_channels, int kernel, int stride, bool transposed, bool styled, bool aligned,
             int act, int head_count, int tile, int splits, W where) {
        Conv2dParams p{};
        p.x = p.weight = in(aligned ? 16 : 2);
        p.style = in(styled ? 16 : 0);
        p.dtype = DType(dtype), p.n = n, p.h = h, p.w = w, p.in_channels = in_channels;
        p.out_h = out_h, p.out_w = out_w, p.out_channels = out_channels;
        p.kernel = kernel, p.stride = stride, p.transposed = transposed, p.act = Act(act), p.clamp = -1;
        p.head_count = head_count, p.tile = tile, p.splits = splits;
        validate_sizes(p);
        const Conv2dPlan q = plan(p, to_where<Where>(where));
        return pybind11::make_tuple(q.tensor_cores, q.rows, q.columns, q.splits, q.workspace_bytes,
                                    q.fused_heads);
      },
      arg("dtype"), arg("n"), arg("h"), arg("w"), arg("in_channels"), arg("out_h"), arg("out_w"),
      arg("out_channels"), arg("kernel"), arg("stride"), arg("transposed"), arg("styled"), arg("aligned"),
      arg("act"), arg("head_count"), arg("tile"), arg("splits"), arg("where"),
      "How conv2d goes: (tensor cores, tile rows, tile columns, splits, workspace bytes, heads fused). "
      "`aligned`: x and weight begin at multiples of 16 bytes.");
}

template <class Where>
void bind_conv2d_heads(pybind11::module_& m, void (*launch)(const Conv2dParams&, Where)) {
  using pybind11::arg;
  using W = WhereArgument<Where>;
  m.def(
      "conv2d_heads",
      [launch](Address y, Address heads, Address head_bias, Address skip, Address skip_filter, Address image,
               int dtype, int64_t n, int64_t h, int64_t w, int64_t channels, int head_count,
               double head_clamp, bool add_to_image, W where) {
        Conv2dParams p{};
        p.y = out(y), p.heads = in(heads), p.head_bias = in(head_bias), p.skip = in(skip);
        p.skip_filter = in(skip_filter), p.image = out(image), p.dtype = DType(dtype);
        p.n = n, p.out_h = h, p.out_w = w, p.out_channels = channels;
        p.head_count = head_count, p.head_clamp = head_clamp, p.add_to_image = add_to_image;
        validate_heads(p);
        launch(p, to_where<Where>(where));
      },
      arg("y"), arg("heads"), arg("head_bias"), arg("skip"), arg("skip_filter"), arg("image"), arg("dtype"),
      arg("n"), arg("h"), arg("w"), arg("channels"), arg("head_count"), arg("head_clamp"),
      arg("add_to_image"), arg("where"), pybind11::call_guard<pybind11::gil_scoped_release>(),
      "The heads of conv2d alone, of an NHWC tensor y: see pyface/conv2d.h.");
}

}  // namespace pyface
