#include "kernels/conformance.cuh"

#include "emu/launcher.h"

namespace pyface {

void launch_conformance_emu(const ConformanceParams& p, int schedule) {
  dev::run_conformance(p, EmuLauncher("conformance", schedule));
}

}  // namespace pyface
