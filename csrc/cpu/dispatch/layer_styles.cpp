#include "pyface/layer_styles.h"

#include "cpu/dispatch/isa.h"

PYFACE_DISPATCH_CPU(layer_styles, LayerStylesParams)
PYFACE_DISPATCH_CPU(fingerprint, FingerprintParams)
