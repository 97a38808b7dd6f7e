// Launches kernel bodies in the emulator. The tile choice of each op is a template over this or CudaLauncher.
#pragma once
#include <utility>

#include "emu/cuda_emu.h"
#include "pyface/check.h"

namespace pyface {

// Tests lower it to see that large tensors go in slices.
inline int64_t emu_index_limit = int64_t{1} << 31;

// Tests lower it to see that kernels are refused.
inline int emu_capability = 90;

class EmuLauncher {
 public:
  EmuLauncher(const char* op, int schedule) : schedule_(schedule) {
    PYFACE_CHECK(schedule >= 0 && schedule <= 2, op, "where", std::to_string(schedule),
                 "0 forward, 1 reverse, 2 random");
  }
  // Small on purpose: grid-stride loops take more than one turn even in small tests.
  int multiprocessors() const { return 1; }
  int64_t index_limit() const { return emu_index_limit; }
  int capability() const { return emu_capability; }

  template <class... Parameters, class... Arguments>
  void operator()(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared,
                  const Arguments&... arguments) const {
    emu::launch(name, kernel, grid, threads, shared, schedule_, arguments...);
  }

 private:
  int schedule_;
};

}  // namespace pyface
