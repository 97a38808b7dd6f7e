#include "pyface/bias_act.h"

#include "cpu/dispatch/isa.h"

PYFACE_DISPATCH_CPU(bias_act, BiasActParams)
PYFACE_DISPATCH_CPU(bias_act_grad, BiasActGradParams)
