#include "pyface/modulated_conv2d.h"

#include "cpu/dispatch/isa.h"

PYFACE_DISPATCH_CPU(modulate, ModulateParams)
PYFACE_DISPATCH_CPU(demodulate, DemodulateParams)
PYFACE_DISPATCH_CPU(conv_epilogue, ConvEpilogueParams)
PYFACE_DISPATCH_CPU(pack_weight, PackWeightParams)
PYFACE_DISPATCH_CPU(unpack_weight, PackWeightParams)
