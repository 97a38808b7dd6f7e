// pyface._cpu: the ops on the CPU. `where` is the number of threads.
#include "bindings/bind_face_render.h"
#include "bindings/bind_ops.h"
#include "bindings/bind_styled_conv.h"
#include "cpu/dispatch/isa.h"

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "CPU kernels of pyface.";
  pyface::bind_ops(m, PYFACE_LAUNCHERS(cpu));
  pyface::bind_face_render(m, &pyface::launch_face_render_cpu);
  pyface::bind_styled_conv(m);
  m.def("isa", [] { return pyface::isa_name(pyface::isa()); }, "The instruction set in use.");
  m.def(
      "isa_available",
      [] {
        pybind11::list names;
        for (auto isa :
             {pyface::Isa::kBaseline, pyface::Isa::kAvx2, pyface::Isa::kAvx512, pyface::Isa::kAmx}) {
          if (pyface::isa_available(isa)) names.append(pyface::isa_name(isa));
        }
        return names;
      },
      "The instruction sets that this CPU and this build have.");
}
