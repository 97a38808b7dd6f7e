// Chooses at run time among the copies of each kernel that the build makes, one per instruction set.
#pragma once
#include "pyface/check.h"

namespace pyface {

// kAmx: AVX-512 with bfloat16 and AMX tiles; only kernels of PYFACE_DISPATCH_CPU_TILES have a copy for it.
enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3 };

// The instruction set in use: the best one the CPU has, or the one PYFACE_CPU_ISA names.
// Throws Error when that variable holds an unknown name or an instruction set the CPU or the build lacks.
Isa isa();
const char* isa_name(Isa isa);
bool isa_available(Isa isa);

}  // namespace pyface

// PYFACE_DISPATCH_CPU(op, Params) defines launch_<op>_cpu: it checks the number of threads and forwards to
// <op>(const Params&, int threads) of the ISA namespace in use (csrc/cpu/<op>.cpp, compiled once per ISA).
#define PYFACE_DECLARE_ISA(ns, op, Params) \
  namespace pyface::ns {                   \
  void op(const Params& p, int threads);   \
  }
#define PYFACE_CHECK_THREADS(op) ::pyface::check_int_range(#op, "where", threads, 1, 4096)
#if PYFACE_ISA_COUNT >= 3
// amx: the copy that runs where there are tiles.
#define PYFACE_DISPATCH_ISA(op, Params, amx)             \
  PYFACE_DECLARE_ISA(isa_baseline, op, Params)           \
  PYFACE_DECLARE_ISA(isa_avx2, op, Params)               \
  PYFACE_DECLARE_ISA(isa_avx512, op, Params)             \
  namespace pyface {                                     \
  void launch_##op##_cpu(const Params& p, int threads) { \
    PYFACE_CHECK_THREADS(op);                            \
    switch (isa()) {                                     \
      case Isa::kAmx:                                    \
        return amx::op(p, threads);                      \
      case Isa::kAvx512:                                 \
        return isa_avx512::op(p, threads);               \
      case Isa::kAvx2:                                   \
        return isa_avx2::op(p, threads);                 \
      case Isa::kBaseline:                               \
        return isa_baseline::op(p, threads);             \
    }                                                    \
  }                                                      \
  }
#define PYFACE_DISPATCH_CPU(op, Params) PYFACE_DISPATCH_ISA(op, Params, isa_avx512)
#else
#define PYFACE_DISPATCH_CPU(op, Params)                  \
  PYFACE_DECLARE_ISA(isa_baseline, op, Params)           \
  namespace pyface {                                     \
  void launch_##op##_cpu(const Params& p, int threads) { \
    PYFACE_CHECK_THREADS(op);                            \
    isa();                                               \
    isa_baseline::op(p, threads);                        \
  }                                                      \
  }
#endif

// PYFACE_DISPATCH_CPU_TILES: the same for kernels that have a copy for AMX.
#if PYFACE_ISA_COUNT == 4
#define PYFACE_DISPATCH_CPU_TILES(op, Params) \
  PYFACE_DECLARE_ISA(isa_amx, op, Params)     \
  PYFACE_DISPATCH_ISA(op, Params, isa_amx)
#else
#define PYFACE_DISPATCH_CPU_TILES(op, Params) PYFACE_DISPATCH_CPU(op, Params)
#endif
