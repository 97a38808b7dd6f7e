#include "pyface/face_render.h"

#include "cpu/dispatch/isa.h"

PYFACE_DISPATCH_CPU(face_render, FaceRenderParams)
