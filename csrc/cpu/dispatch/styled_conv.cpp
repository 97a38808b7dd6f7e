#include "pyface/styled_conv.h"

#include "cpu/dispatch/isa.h"
#include "cpu/styled_conv_plan.h"

PYFACE_DISPATCH_CPU_TILES(pack_styled_conv, PackStyledConvParams)
PYFACE_DISPATCH_CPU_TILES(block_activations, BlockActivationsParams)
PYFACE_DISPATCH_CPU_TILES(styled_conv, StyledConvParams)

namespace pyface {

void check_styled_isa(const char* op, DType dtype) {
  PYFACE_CHECK(dtype == DType::kF32 || isa() == Isa::kAmx, op, "dtype", "bfloat16 without AMX",
               "float32 on this CPU");
}

int64_t styled_number_bytes(DType dtype) {
  return dtype == DType::kF32 && isa() == Isa::kAmx ? 6 : dtype_size(dtype);
}

int64_t styled_conv_workspace(const StyledConvParams& p, int threads) {
  return StyledConvPlan(p, threads).bytes();
}

}  // namespace pyface
