"""Tensor operations of StyleGAN2-class networks: native kernels beside a pure torch reference.

Each op takes `backend="auto" | "reference" | "cpu" | "cuda"`; "auto" goes by the device of its first tensor.
`backend()` names what "auto" takes. Environment variable PYFACE_REQUIRE=cuda makes an "auto" call that would
not run on the CUDA kernels a BackendError; PYFACE_REQUIRE=cpu refuses falls to the torch reference alone.
`no_weight_gradients()` is a context in which the ops leave out the gradients of weights, biases and noise, as
R1 and path length want it. bias_act, upfirdn2d and conv_epilogue write into `out` where it is given.
"""

from __future__ import annotations

from pyface.ops._native import backend, describe_backends
from pyface.ops.activations import ACTIVATIONS
from pyface.ops.bias_act import bias_act
from pyface.ops.conv2d_resample import conv2d_resample
from pyface.ops.convolution import no_weight_gradients
from pyface.ops.modulated_conv2d import conv_epilogue, modulated_conv2d, modulated_conv2d_act
from pyface.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "ACTIVATIONS",
    "backend",
    "bias_act",
    "conv2d_resample",
    "conv_epilogue",
    "describe_backends",
    "downsample2d",
    "filter2d",
    "modulated_conv2d",
    "modulated_conv2d_act",
    "no_weight_gradients",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
