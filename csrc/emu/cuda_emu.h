// Runs the source of a CUDA kernel on the CPU: include it instead of cuda_runtime.h.
#pragma once
#include "emu/block.h"
#include "emu/collectives.h"
#include "emu/types.h"
