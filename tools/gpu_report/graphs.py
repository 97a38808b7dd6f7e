"""Whole syntheses on the GPU: replayed CUDA graphs against the same kernels one by one, bit for bit."""

from __future__ import annotations

import copy
import warnings
from typing import Any

__all__ = ["PRECISIONS", "compare_replay"]

# Largest root mean square of the error against the layers in float64, over the images' standard deviation.
PRECISIONS = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.004}
_SIDE, _BATCH, _CALLS = 256, 2, 4


def compare_replay(precision: str) -> dict[str, Any]:
    """Whether graphs give the bits of eager calls, for new ws, new weights and new noise; and the error."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # cuDNN's own choice may add in another order each time
    network = _network()
    network.synthesis.cuda_graphs = True
    eager = copy.deepcopy(network)
    eager.synthesis.cuda_graphs = False
    different, calls = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a recording that failed
        for call in range(2 * _CALLS):
            ws = torch.randn(_BATCH, network.num_ws, network.w_dim, device="cuda")
            if call == _CALLS:
                for one in (network, eager):
                    with torch.no_grad():
                        one.synthesis.b64.conv1.weight.mul_(-0.5)
                        one.synthesis.b32.conv0.bias.data.add_(0.25)
            for mode in ("const", "random"):
                images = []
                for one in (network, eager):
                    numbers = torch.Generator("cuda").manual_seed(call)
                    images.append(one.synthesis(ws, noise_mode=mode, precision=precision, generator=numbers))
                different += int((images[0] != images[1]).sum())
                calls += 1
    got = network.synthesis(ws, noise_mode="const", precision=precision).double()
    truth = copy.deepcopy(network).double().synthesis(ws.double(), noise_mode="const")
    error = float(((got - truth).square().mean().sqrt() / truth.std()).cpu())
    recorded = _recorded(network)
    ok = different == 0 and recorded == 2 and error <= PRECISIONS[precision]
    return {"calls": calls, "different": different, "graphs": recorded, "rms_error": error, "ok": ok}


def _network() -> Any:
    import torch

    from pyface.benchmark.synthesis_cases import random_generator

    torch.manual_seed(1)
    return random_generator(_SIDE, channel_base=8192, channel_max=256).cuda()


def _recorded(network: Any) -> int:
    """How many graphs are kept for a network."""
    from pyface.models import _stylegan2_cuda as cuda
    from pyface.models._stylegan2_engine_network import last_known

    state = cuda._states[last_known(network.synthesis)]
    return sum(run.is_recorded for _, run in state._programs.values())
