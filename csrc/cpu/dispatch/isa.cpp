#include "cpu/dispatch/isa.h"

#if PYFACE_ISA_COUNT == 4
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include <cstdlib>
#include <string>

#include "pyface/check.h"

namespace pyface {
namespace {

constexpr Isa kAll[] = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAmx};

#if PYFACE_ISA_COUNT == 4
// Whether the CPU has AMX with bfloat16 and AVX-512 with bfloat16, and the kernel lets this process use
// tiles: Linux wants to be asked once, since their state is large (Documentation/arch/x86/xstate.rst).
bool ask_for_tiles() {
#if defined(__linux__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAvx512Bf16 = 1u << 5;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || (eax & kAvx512Bf16) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool tiles_usable() {
  static const bool usable = ask_for_tiles();
  return usable;
}
#endif

std::string available_names() {
  std::string names;
  for (Isa isa : kAll) {
    if (isa_available(isa)) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  return names;
}

Isa best() {
  Isa found = Isa::kBaseline;
  for (Isa isa : kAll) {
    if (isa_available(isa)) found = isa;
  }
  return found;
}

Isa choose() {
  const char* wanted = std::getenv("PYFACE_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return best();
  for (Isa isa : kAll) {
    if (std::string(wanted) != isa_name(isa)) continue;
    PYFACE_CHECK(isa_available(isa), "isa", "PYFACE_CPU_ISA",
                 std::string(wanted) + ", which this CPU or this build lacks", available_names());
    return isa;
  }
  fail("isa", "PYFACE_CPU_ISA", "'" + std::string(wanted) + "'", available_names() + ", or unset");
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return "amx";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kBaseline:
      break;
  }
  return "baseline";
}

bool isa_available(Isa isa) {
#if PYFACE_ISA_COUNT == 4
  if (isa == Isa::kAmx) return isa_available(Isa::kAvx512) && tiles_usable();
#endif
#if PYFACE_ISA_COUNT >= 3
  __builtin_cpu_init();
  if (isa == Isa::kAvx512) return __builtin_cpu_supports("x86-64-v4");
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("x86-64-v3");
#endif
  return isa == Isa::kBaseline;
}

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace pyface
