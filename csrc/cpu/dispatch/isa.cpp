#include "cpu/dispatch/isa.h"

#include <cstdlib>
#include <string>

#include "pyface/check.h"

namespace pyface {
namespace {

constexpr Isa kAll[] = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512};

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
#if PYFACE_ISA_COUNT == 3
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
