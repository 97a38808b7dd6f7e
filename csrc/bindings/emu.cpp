// pyface._emu: the CUDA kernel bodies executed on the CPU, for tests. `where` is the schedule of the emulated
// threads: 0 forward, 1 reverse, 2 random.
#include "bindings/bind_conformance.h"
#include "bindings/bind_conv2d.h"
#include "bindings/bind_face_render.h"
#include "bindings/bind_gradients.h"
#include "bindings/bind_ops.h"
#include "bindings/bind_upconv2d.h"

PYBIND11_MODULE(_emu, m) {
  m.doc() = "CUDA kernels of pyface executed on the CPU.";
  pyface::bind_ops(m, PYFACE_LAUNCHERS(emu));
  pyface::bind_face_render(m, &pyface::launch_face_render_emu);
  pyface::bind_gradients(m, PYFACE_GRADIENT_LAUNCHERS(emu));
  pyface::bind_conformance(m, &pyface::launch_conformance_emu);
  pyface::bind_conv2d(m, &pyface::launch_conv2d_emu, &pyface::plan_conv2d_emu);
  pyface::bind_conv2d_heads(m, &pyface::launch_conv2d_heads_emu);
  pyface::bind_upconv2d(m, &pyface::launch_upconv2d_emu, &pyface::plan_upconv2d_emu);
}
