// Binds the fused synthesis layer of the CPU.
#pragma once
#include "bindings/bind_ops.h"
#include "pyface/styled_conv.h"

namespace pyface {

inline void bind_styled_conv(pybind11::module_& m) {
  using pybind11::arg;
  using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;
  m.def(
      "pack_styled_conv",
      [](Address weight, Address packed, int dtype, int64_t out_channels, int64_t in_channels, int up,
         int where) {
        const PackStyledConvParams p{in(weight), out(packed), DType(dtype), out_channels, in_channels, up};
        validate(p);
        check_styled_isa("pack_styled_conv", p.dtype);
        launch_pack_styled_conv_cpu(p, where);
      },
      arg("weight"), arg("packed"), arg("dtype"), arg("out_channels"), arg("in_channels"), arg("up"),
      arg("where"), Unlocked(), "A 3x3 weight in the order in which `styled_conv` convolves with it.");
  m.def(
      "block_activations",
      [](Address x, Address scale, Address y, int dtype, int64_t n, int64_t c, int64_t h, int64_t w,
         bool shared, int where) {
        const BlockActivationsParams p{in(x), in(scale), out(y), DType(dtype), n, c, h, w, shared};
        validate(p);
        launch_block_activations_cpu(p, where);
      },
      arg("x"), arg("scale"), arg("y"), arg("dtype"), arg("n"), arg("c"), arg("h"), arg("w"), arg("shared"),
      arg("where"), Unlocked(), "x * scale as blocked activations.");
  m.def(
      "blocked_bytes",
      [](int dtype, int64_t n, int64_t channels, int64_t h, int64_t w) {
        return blocked_bytes(DType(dtype), n, channels, h, w);
      },
      arg("dtype"), arg("n"), arg("channels"), arg("h"), arg("w"), "Bytes of blocked activations.");
  m.def(
      "styled_conv_workspace",
      [](int dtype, int64_t n, int64_t in_channels, int64_t out_channels, int64_t in_h, int64_t in_w,
         int64_t head_channels, int up, int64_t chunk_bytes, int groups_inside, int where) {
        StyledConvParams p{};
        p.dtype = DType(dtype);
        p.n = n;
        p.in_channels = in_channels;
        p.out_channels = out_channels;
        p.in_h = in_h;
        p.in_w = in_w;
        p.head_channels = head_channels;
        p.heads = head_channels ? &p : nullptr;
        p.up = up;
        p.chunk_bytes = chunk_bytes;
        p.groups_inside = groups_inside;
        return styled_conv_workspace(p, where);
      },
      arg("dtype"), arg("n"), arg("in_channels"), arg("out_channels"), arg("in_h"), arg("in_w"),
      arg("head_channels"), arg("up"), arg("chunk_bytes"), arg("groups_inside"), arg("where"),
      "Bytes of workspace of a `styled_conv`.");
  m.def(
      "styled_conv",
      [](Address x, Address weight, Address demod, Address noise, Address bias, Address next_style, Address y,
         Address heads, Address rgb, Address workspace, int dtype, int64_t n, int64_t x_batch,
         int64_t x_first, int64_t y_batch, int64_t y_first, int64_t in_channels, int64_t out_channels,
         int64_t in_h, int64_t in_w, int64_t head_channels, int up, bool noise_per_sample, double alpha,
         double clamp, int64_t chunk_bytes, int groups_inside, int where) {
        const StyledConvParams p{in(x),
                                 in(weight),
                                 in(demod),
                                 in(noise),
                                 in(bias),
                                 in(next_style),
                                 out(y),
                                 in(heads),
                                 out(rgb),
                                 out(workspace),
                                 DType(dtype),
                                 n,
                                 x_batch,
                                 x_first,
                                 y_batch,
                                 y_first,
                                 in_channels,
                                 out_channels,
                                 in_h,
                                 in_w,
                                 head_channels,
                                 up,
                                 noise_per_sample,
                                 alpha,
                                 clamp,
                                 chunk_bytes,
                                 groups_inside};
        validate(p);
        check_styled_isa("styled_conv", p.dtype);
        launch_styled_conv_cpu(p, where);
      },
      arg("x"), arg("weight"), arg("demod"), arg("noise"), arg("bias"), arg("next_style"), arg("y"),
      arg("heads"), arg("rgb"), arg("workspace"), arg("dtype"), arg("n"), arg("x_batch"), arg("x_first"),
      arg("y_batch"), arg("y_first"), arg("in_channels"), arg("out_channels"), arg("in_h"), arg("in_w"),
      arg("head_channels"), arg("up"), arg("noise_per_sample"), arg("alpha"), arg("clamp"),
      arg("chunk_bytes"), arg("groups_inside"), arg("where"), Unlocked(),
      "A synthesis layer: see csrc/include/pyface/styled_conv.h.");
}

}  // namespace pyface
