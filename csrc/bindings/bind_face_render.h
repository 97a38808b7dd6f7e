// Binds the face renderer of one backend: face_render and the table of its parameters.
#pragma once
#include "bindings/bind_ops.h"
#include "pyface/face_params.h"
#include "pyface/face_render.h"

namespace pyface {

template <class Where>
void bind_face_render(pybind11::module_& m, void (*launch)(const FaceRenderParams&, Where)) {
  using pybind11::arg;
  using W = WhereArgument<Where>;
  m.def(
      "face_render",
      [launch](Address params, Address vis, Address nir, Address segmentation, Address depth,
               Address landmarks, int64_t n, int size, W where) {
        const FaceRenderParams p{static_cast<const float*>(in(params)),
                                 static_cast<uint8_t*>(out(vis)),
                                 static_cast<uint8_t*>(out(nir)),
                                 static_cast<uint8_t*>(out(segmentation)),
                                 static_cast<float*>(out(depth)),
                                 static_cast<float*>(out(landmarks)),
                                 n,
                                 size};
        validate(p);
        launch(p, to_where<Where>(where));
      },
      arg("params"), arg("vis"), arg("nir"), arg("segmentation"), arg("depth"), arg("landmarks"), arg("n"),
      arg("size"), arg("where"), pybind11::call_guard<pybind11::gil_scoped_release>(),
      "Draw n faces of size x size pixels; outputs with address 0 are left out.");
  m.def(
      "face_parameters",
      [] {
        pybind11::list table;
        for (const FaceParamInfo& p : kFaceParams)
          table.append(pybind11::make_tuple(p.name, p.low, p.high, p.def, p.doc));
        return table;
      },
      "(name, low, high, default, meaning) of each parameter, in order.");
}

}  // namespace pyface
