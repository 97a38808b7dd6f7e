// Binds upconv2d of one backend: its kernels stand on tensor cores, so that there is none for the CPU.
#pragma once
#include "bindings/bind_ops.h"
#include "pyface/upconv2d.h"

namespace pyface {

template <class Where>
void bind_upconv2d(pybind11::module_& m, void (*launch)(const Upconv2dParams&, Where),
                   Upconv2dPlan (*plan)(const Upconv2dParams&, Where)) {
  using pybind11::arg;
  using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;
  using W = WhereArgument<Where>;
  m.def(
      "upconv2d",
      [launch](Address x, Address weight, Address style, Address filter, Address demod, Address noise,
               Address bias, Address next_style, Address y, int dtype, int64_t n, int64_t h, int64_t w,
               int64_t in_channels, int64_t out_channels, bool filter_is_matrix, bool noise_per_sample,
               int act, double alpha, double gain, double clamp, int tile, int steps, W where) {
        const Upconv2dParams p{in(x),
                               in(weight),
                               in(style),
                               in(filter),
                               in(demod),
                               in(noise),
                               in(bias),
                               in(next_style),
                               out(y),
                               DType(dtype),
                               n,
                               h,
                               w,
                               in_channels,
                               out_channels,
                               filter_is_matrix,
                               noise_per_sample,
                               Act(act),
                               alpha,
                               gain,
                               clamp,
                               tile,
                               steps};
        validate(p);
        launch(p, to_where<Where>(where));
      },
      arg("x"), arg("weight"), arg("style"), arg("filter"), arg("demod"), arg("noise"), arg("bias"),
      arg("next_style"), arg("y"), arg("dtype"), arg("n"), arg("h"), arg("w"), arg("in_channels"),
      arg("out_channels"), arg("filter_is_matrix"), arg("noise_per_sample"), arg("act"), arg("alpha"),
      arg("gain"), arg("clamp"), arg("tile"), arg("steps"), arg("where"), Unlocked(),
      "An NHWC layer that doubles the size: transposed convolution, filter, epilogue. See "
      "pyface/upconv2d.h.");
  m.def(
      "upconv2d_plan",
      [plan](int dtype, int64_t n, int64_t h, int64_t w, int64_t in_channels, int64_t out_channels,
             bool aligned, int act, int tile, int steps, W where) {
        Upconv2dParams p{};
        p.x = p.weight = in(aligned ? 16 : 2);
        p.y = out(aligned ? 16 : 2);
        p.dtype = DType(dtype), p.n = n, p.h = h, p.w = w;
        p.in_channels = in_channels, p.out_channels = out_channels;
        p.act = Act(act), p.clamp = -1, p.tile = tile, p.steps = steps;
        const Upconv2dPlan q = plan(p, to_where<Where>(where));
        return pybind11::make_tuple(q.tensor_cores, q.tile, q.width, q.rows, q.channels, q.steps, q.blocks,
                                    q.shared_bytes);
      },
      arg("dtype"), arg("n"), arg("h"), arg("w"), arg("in_channels"), arg("out_channels"), arg("aligned"),
      arg("act"), arg("tile"), arg("steps"), arg("where"),
      "How upconv2d goes: (tensor cores, tile, positions across, down, channels, steps, blocks, shared "
      "bytes). `aligned`: x, weight and y begin at multiples of 16 bytes.");
}

}  // namespace pyface
