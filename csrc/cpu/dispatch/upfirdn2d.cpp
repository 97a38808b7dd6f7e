#include "pyface/upfirdn2d.h"

#include "cpu/dispatch/isa.h"

PYFACE_DISPATCH_CPU(upfirdn2d, Upfirdn2dParams)
