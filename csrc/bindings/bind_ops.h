// Binds the tensor ops of one backend. Each module (_cpu, _cuda, _emu) is this table with its own launchers:
//   PYBIND11_MODULE(_cpu, m) { pyface::bind_ops(m, PYFACE_LAUNCHERS(cpu)); }
// Pointers are addresses (0: absent tensor). Every call validates its params and releases the GIL.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <type_traits>

#include "pyface/bias_act.h"
#include "pyface/check.h"
#include "pyface/modulated_conv2d.h"
#include "pyface/upfirdn2d.h"

namespace pyface {

// The launch functions of one backend; `Where` is int (threads, schedule) or void* (stream).
template <class Where>
struct Launchers {
  void (*bias_act)(const BiasActParams&, Where);
  void (*bias_act_grad)(const BiasActGradParams&, Where);
  void (*upfirdn2d)(const Upfirdn2dParams&, Where);
  void (*modulate)(const ModulateParams&, Where);
  void (*demodulate)(const DemodulateParams&, Where);
  void (*conv_epilogue)(const ConvEpilogueParams&, Where);
  void (*pack_weight)(const PackWeightParams&, Where);
  void (*unpack_weight)(const PackWeightParams&, Where);
};

template <class Where, class... Rest>
Launchers(void (*)(const BiasActParams&, Where), Rest...) -> Launchers<Where>;

#define PYFACE_LAUNCHERS(backend)                                                        \
  ::pyface::Launchers {                                                                  \
    ::pyface::launch_bias_act_##backend, ::pyface::launch_bias_act_grad_##backend,       \
        ::pyface::launch_upfirdn2d_##backend, ::pyface::launch_modulate_##backend,       \
        ::pyface::launch_demodulate_##backend, ::pyface::launch_conv_epilogue_##backend, \
        ::pyface::launch_pack_weight_##backend, ::pyface::launch_unpack_weight_##backend \
  }

// An address or a `where` as Python passes it: a stream travels as an integer, like every pointer.
using Address = std::uintptr_t;
template <class Where>
using WhereArgument = std::conditional_t<std::is_pointer_v<Where>, Address, int>;

template <class Where>
Where to_where(WhereArgument<Where> where) {
  if constexpr (std::is_pointer_v<Where>) {
    return reinterpret_cast<Where>(where);
  } else {
    return where;
  }
}

inline const void* in(Address address) { return reinterpret_cast<const void*>(address); }
inline void* out(Address address) { return reinterpret_cast<void*>(address); }

// pyface::Error becomes ValueError in this module; other std::exceptions keep pybind11's RuntimeError.
inline void register_errors() {
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      pybind11::set_error(PyExc_ValueError, error.what());
    }
  });
}

template <class Where>
void bind_ops(pybind11::module_& m, Launchers<Where> launch) {
  using pybind11::arg;
  using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;
  using W = WhereArgument<Where>;
  register_errors();
  m.def(
      "bias_act",
      [run = launch.bias_act](Address x, Address bias, Address y, int dtype, int64_t outer, int64_t channels,
                              int64_t inner, int act, double alpha, double gain, double clamp, W where) {
        const BiasActParams p{in(x), in(bias), out(y), DType(dtype), outer, channels,
                              inner, Act(act), alpha,  gain,         clamp};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("x"), arg("bias"), arg("y"), arg("dtype"), arg("outer"), arg("channels"), arg("inner"), arg("act"),
      arg("alpha"), arg("gain"), arg("clamp"), arg("where"), Unlocked(),
      "y = clamp(gain * act(x + bias)) on dense [outer, channels, inner].");
  m.def(
      "bias_act_grad",
      [run = launch.bias_act_grad](Address dy, Address ref, Address bias, Address dx, int dtype,
                                   int64_t outer, int64_t channels, int64_t inner, int act, double alpha,
                                   double gain, double clamp, W where) {
        const BiasActGradParams p{in(dy),   in(ref), in(bias), out(dx), DType(dtype), outer,
                                  channels, inner,   Act(act), alpha,   gain,         clamp};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("dy"), arg("ref"), arg("bias"), arg("dx"), arg("dtype"), arg("outer"), arg("channels"),
      arg("inner"), arg("act"), arg("alpha"), arg("gain"), arg("clamp"), arg("where"), Unlocked(),
      "dx = dy * d bias_act / dx; ref is the input for swish, else the output.");
  m.def(
      "upfirdn2d",
      [run = launch.upfirdn2d](Address x, Address filter, Address y, int dtype, int64_t n, int64_t c,
                               int64_t in_h, int64_t in_w, int64_t out_h, int64_t out_w, bool channels_last,
                               bool separable, bool flip, int filter_h, int filter_w, int up_x, int up_y,
                               int down_x, int down_y, int pad_x0, int pad_y0, double gain, W where) {
        const Upfirdn2dParams p{in(x),    in(filter), out(y), DType(dtype),  n,         c,      in_h,
                                in_w,     out_h,      out_w,  channels_last, separable, flip,   filter_h,
                                filter_w, up_x,       up_y,   down_x,        down_y,    pad_x0, pad_y0,
                                gain};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("x"), arg("filter"), arg("y"), arg("dtype"), arg("n"), arg("c"), arg("in_h"), arg("in_w"),
      arg("out_h"), arg("out_w"), arg("channels_last"), arg("separable"), arg("flip"), arg("filter_h"),
      arg("filter_w"), arg("up_x"), arg("up_y"), arg("down_x"), arg("down_y"), arg("pad_x0"), arg("pad_y0"),
      arg("gain"), arg("where"), Unlocked(), "Pad, upsample by zero insertion, filter and downsample.");
  m.def(
      "modulate",
      [run = launch.modulate](Address x, Address scale, Address y, int dtype, int64_t n, int64_t c,
                              int64_t hw, bool channels_last, W where) {
        const ModulateParams p{in(x), in(scale), out(y), DType(dtype), n, c, hw, channels_last};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("x"), arg("scale"), arg("y"), arg("dtype"), arg("n"), arg("c"), arg("hw"), arg("channels_last"),
      arg("where"), Unlocked(), "y[n, c, :] = x[n, c, :] * scale[n, c].");
  m.def(
      "demodulate",
      [run = launch.demodulate](Address weight_sq, Address styles, Address demod, int dtype, int64_t n,
                                int64_t out_channels, int64_t in_channels, double eps, W where) {
        const DemodulateParams p{in(weight_sq), in(styles),  out(demod), DType(dtype), n,
                                 out_channels,  in_channels, eps};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("weight_sq"), arg("styles"), arg("demod"), arg("dtype"), arg("n"), arg("out_channels"),
      arg("in_channels"), arg("eps"), arg("where"), Unlocked(),
      "demod[n, o] = 1 / sqrt(sum_i weight_sq[o, i] * styles[n, i]^2 + eps).");
  m.def(
      "conv_epilogue",
      [run = launch.conv_epilogue](Address x, Address demod, Address noise, Address bias, Address next_style,
                                   Address y, int dtype, int64_t n, int64_t c, int64_t hw, bool channels_last,
                                   bool noise_per_sample, int act, double alpha, double gain, double clamp,
                                   W where) {
        const ConvEpilogueParams p{
            in(x), in(demod), in(noise),     in(bias),         in(next_style), out(y), DType(dtype), n,
            c,     hw,        channels_last, noise_per_sample, Act(act),       alpha,  gain,         clamp};
        validate(p);
        run(p, to_where<Where>(where));
      },
      arg("x"), arg("demod"), arg("noise"), arg("bias"), arg("next_style"), arg("y"), arg("dtype"), arg("n"),
      arg("c"), arg("hw"), arg("channels_last"), arg("noise_per_sample"), arg("act"), arg("alpha"),
      arg("gain"), arg("clamp"), arg("where"), Unlocked(),
      "y = next_style * clamp(gain * act(x * demod + noise + bias)).");
  const auto bind_packing = [&m](const char* name, const char* text,
                                 void (*run)(const PackWeightParams&, Where)) {
    m.def(
        name,
        [name, run](Address from, Address to, int dtype, int64_t out_channels, int64_t in_channels,
                    int64_t taps, bool transposed, bool flip, double gain, W where) {
          const PackWeightParams p{in(from), out(to),    DType(dtype), out_channels, in_channels,
                                   taps,     transposed, flip,         gain};
          validate(p, name);
          run(p, to_where<Where>(where));
        },
        arg("from_"), arg("to"), arg("dtype"), arg("out_channels"), arg("in_channels"), arg("taps"),
        arg("transposed"), arg("flip"), arg("gain"), arg("where"), Unlocked(), text);
  };
  bind_packing("pack_weight", "A weight [out, in, taps] in the type and order in which it convolves.",
               launch.pack_weight);
  bind_packing("unpack_weight", "The adjoint of pack_weight.", launch.unpack_weight);
}

}  // namespace pyface
