"""bias_act: bias, activation, gain and clamp in one pass."""

from __future__ import annotations

from torch import Tensor

from pyface.ops._checks import DTYPES, bias_fits, refuse_bias, refuse_input
from pyface.ops._dispatch import epilogue_settings, primitives, writers
from pyface.ops._output import check_out

__all__ = ["bias_act"]


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    backend: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """clamp(gain * act(x + b)), of the shape, dtype and memory layout of `x`.

    x: any shape; float32, float64, bfloat16 or float16. b: [x.shape[dim]], same dtype, or None.
    act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
    alpha: slope of lrelu below zero (0.2). gain: default sqrt(2) for relu, lrelu and swish, else 1.
    clamp: limit of |y| after the gain, None for none; the gradient is 0 where |y| >= clamp.
    backend: auto, reference, cpu or cuda. Gradients of any order reach x and b.
    out: takes the result and is returned, in eager calls that need no gradient; of x's shape, dtype, device
    and dense memory layout; may be `x` itself.

    Raises ShapeError, DTypeError or ValueRangeError on bad input, BackendError where `backend` cannot run.
    Source: Karras et al. 2020 (StyleGAN2), section 2 and appendix B.

    >>> import torch
    >>> bias_act(torch.tensor([[1.0, -1.0]]), torch.tensor([1.0, 0.0]), act="lrelu", gain=1.0)
    tensor([[ 2.0000, -0.2000]])
    """
    if not (isinstance(x, Tensor) and x.dtype in DTYPES):
        refuse_input("bias_act", x)
    if b is not None and not bias_fits(x, b, dim):
        refuse_bias("bias_act", x, b, dim)
    e = epilogue_settings("bias_act", act, alpha, gain, clamp)
    if out is None:
        return primitives(x, backend, e).bias_act(x, b, dim, e)
    writer = writers("bias_act", x, out, backend, e)
    check_out("bias_act", out, x, x.shape, (b,), in_place=True)
    return writer.bias_act(x, b, dim, e, out)
