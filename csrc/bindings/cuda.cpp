// pyface._cuda: the ops on CUDA devices. `where` is the handle of a stream. Importing it needs no driver.
#include <sstream>
#include <string>

#include "bindings/bind_conformance.h"
#include "bindings/bind_conv2d.h"
#include "bindings/bind_face_render.h"
#include "bindings/bind_gradients.h"
#include "bindings/bind_ops.h"
#include "bindings/bind_upconv2d.h"
#include "cuda/device.h"

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of pyface.";
  pyface::bind_ops(m, PYFACE_LAUNCHERS(cuda));
  pyface::bind_face_render(m, &pyface::launch_face_render_cuda);
  pyface::bind_gradients(m, PYFACE_GRADIENT_LAUNCHERS(cuda));
  pyface::bind_conformance(m, &pyface::launch_conformance_cuda);
  pyface::bind_conv2d(m, &pyface::launch_conv2d_cuda, &pyface::plan_conv2d_cuda);
  pyface::bind_conv2d_heads(m, &pyface::launch_conv2d_heads_cuda);
  pyface::bind_upconv2d(m, &pyface::launch_upconv2d_cuda, &pyface::plan_upconv2d_cuda);
  m.def(
      "device_count",
      [] {
        std::string why;
        const int count = pyface::cuda_device_count(why);
        return pybind11::make_tuple(count, why);
      },
      "The number of usable devices, and the runtime's error text when there is none.");
  m.def(
      "architectures",
      [] {
        pybind11::list names;
        std::stringstream list(PYFACE_CUDA_ARCHS);
        for (std::string name; std::getline(list, name, ',');) names.append(name);
        return names;
      },
      "The architectures this module was built for.");
  m.def("runtime_version", &pyface::cuda_runtime_version, "Version of the CUDA runtime, e.g. 13000.");
}
