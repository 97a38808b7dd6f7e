// Binds the fused synthesis layer of the CPU.
#pragma once
#include "bindings/bind_ops.h"
#include "pyface/layer_styles.h"
#include "pyface/styled_conv.h"

namespace pyface {

inline StyledConvParams styled_conv_at(Address layers, int64_t index, Address workspace) {
  check_pointer("styled_convs", "layers", in(layers));
  StyledConvParams p = static_cast<const StyledConvParams*>(in(layers))[index];
  check_styled_dtype("styled_convs", p.dtype);
  p.workspace = out(workspace);
  p.number_bytes = styled_number_bytes(p.dtype);
  return p;
}

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
        return padded_channels(channels) * blocked_positions(n, h, w) * styled_number_bytes(DType(dtype));
      },
      arg("dtype"), arg("n"), arg("channels"), arg("h"), arg("w"), "Bytes of blocked activations.");
  m.def(
      "styled_number_bytes", [](int dtype) { return styled_number_bytes(DType(dtype)); }, arg("dtype"),
      "Bytes of a number in blocked activations and packed weights.");
  m.attr("STYLED_CONV_BYTES") = sizeof(StyledConvParams);
  m.attr("LAYER_STYLE_BYTES") = sizeof(LayerStyle);
  m.def(
      "styled_convs_workspace",
      [](Address layers, int64_t count, int where) {
        int64_t most = 0;
        for (int64_t i = 0; i < count; ++i) {
          const int64_t bytes = styled_conv_workspace(styled_conv_at(layers, i, 0), where);
          most = bytes > most ? bytes : most;
        }
        return most;
      },
      arg("layers"), arg("count"), arg("where"), "Bytes of workspace of `styled_convs`.");
  m.def(
      "styled_convs",
      [](Address layers, int64_t count, Address workspace, int where) {
        for (int64_t i = 0; i < count; ++i) {
          const StyledConvParams p = styled_conv_at(layers, i, workspace);
          validate(p);
          check_styled_isa("styled_conv", p.dtype);
          launch_styled_conv_cpu(p, where);
        }
      },
      arg("layers"), arg("count"), arg("workspace"), arg("where"), Unlocked(),
      "Synthesis layers one after another: `layers` holds `count` StyledConvParams, see "
      "csrc/include/pyface/styled_conv.h; their workspace and number_bytes are not read.");
  m.def(
      "layer_styles",
      [](Address layers, int64_t count, Address ws, int64_t n, int64_t num_ws, int64_t w_dim, int where) {
        const LayerStylesParams p{static_cast<const LayerStyle*>(in(layers)),
                                  count,
                                  static_cast<const float*>(in(ws)),
                                  n,
                                  num_ws,
                                  w_dim};
        validate(p);
        launch_layer_styles_cpu(p, where);
      },
      arg("layers"), arg("count"), arg("ws"), arg("n"), arg("num_ws"), arg("w_dim"), arg("where"), Unlocked(),
      "Styles of all layers: see csrc/include/pyface/layer_styles.h; `layers` holds `count` LayerStyle.");
  m.def(
      "fingerprints",
      [](Address tensors, int64_t count, Address results) {
        check_pointer("fingerprints", "tensors", in(tensors));
        check_pointer("fingerprints", "results", in(results));
        const auto* rows = static_cast<const int64_t*>(in(tensors));
        for (int64_t i = 0; i < count; ++i) {
          const void* data = in(static_cast<Address>(rows[2 * i]));
          if (rows[2 * i + 1] > 0) check_pointer("fingerprints", "tensors", data);
          launch_fingerprint_cpu({data, rows[2 * i + 1], static_cast<uint64_t*>(out(results)) + i}, 1);
        }
      },
      arg("tensors"), arg("count"), arg("results"), Unlocked(),
      "Numbers that change when tensors do; `tensors` holds (address, bytes) in int64, `results` uint64.");
}

}  // namespace pyface
