// Binds the conformance kernel of one backend.
#pragma once
#include "bindings/bind_ops.h"
#include "pyface/conformance.h"

namespace pyface {

template <class Where>
void bind_conformance(pybind11::module_& m, void (*launch)(const ConformanceParams&, Where)) {
  using pybind11::arg;
  m.def(
      "conformance",
      [launch](int primitive, Address input, Address output, WhereArgument<Where> where) {
        const ConformanceParams p{Primitive(primitive), in(input), out(output)};
        validate(p);
        launch(p, to_where<Where>(where));
      },
      arg("primitive"), arg("input"), arg("output"), arg("where"),
      pybind11::call_guard<pybind11::gil_scoped_release>(),
      "One warp runs one hardware primitive: 0 mma f16, 1 mma bf16, 2 ldmatrix, 3 ldmatrix trans, 4 "
      "shuffles, "
      "5 cp.async.");
  m.def(
      "conformance_bytes",
      [](int primitive) {
        check_int_range("conformance_bytes", "primitive", primitive, 0, kPrimitiveCount - 1);
        return pybind11::make_tuple(conformance_input_bytes(Primitive(primitive)),
                                    conformance_output_bytes(Primitive(primitive)));
      },
      arg("primitive"), "Sizes in bytes of the input and the output of a primitive.");
}

}  // namespace pyface
