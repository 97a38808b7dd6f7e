"""The processes that `process_cases` starts: one task as JSON on the standard input, one figure as JSON
back.

Run by its path (`python -P process_child.py`), so that a process imports what its task needs and nothing
else: neither torch nor pyface where another runtime is measured.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

RUNS = 3  # runs before the peak is read


def high_water() -> float:
    """The most MB that this process had resident so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError("/proc/self/status does not tell VmHWM on this system")
    return int(found[1]) * 1024 / 1e6


class Stopwatch:
    """Seconds of what runs inside `with stopwatch.running()`."""

    seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the time inside to `seconds`."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def first_image(task: dict[str, Any]) -> float:
    """Seconds to read a generator from its file and make one image, the imports not counted."""
    import torch

    from pyface.benchmark.plain_stylegan2 import PlainGenerator  # noqa: F401  the imports are not counted
    from pyface.models import find_checkpoint, load

    torch.set_num_threads(task["threads"])
    watch = Stopwatch()
    network: Any
    with watch.running(), torch.inference_mode():
        path = find_checkpoint(task["network"])
        if task["way"] == "pyface":
            network = load(path)
            network(torch.zeros(1, network.z_dim) + 0.1, torch.zeros(1, network.c_dim), noise_mode="const")
        else:
            network = plain_generator(path)
            network(torch.zeros(1, network.z_dim) + 0.1)
    return watch.seconds


def plain_generator(path: Path) -> Any:
    """The generator of a file in plain torch.

    A condition is left out, its embedding is part of a longer z; so is the clamp of activations.
    """
    from pyface.benchmark.plain_stylegan2 import PlainGenerator
    from pyface.io.checkpoint import load_tensors, read_header
    from pyface.models import GeneratorConfig

    config = GeneratorConfig.from_dict(read_header(path)["config"])
    tensors = {name: tensor for name, tensor in load_tensors(path).items() if ".embed." not in name}
    width = tensors["mapping.fc0.weight"].shape[1]
    network = PlainGenerator(replace(config, c_dim=0, z_dim=width, conv_clamp=None)).eval()
    network.load_state_dict(tensors)
    return network


def first_call(task: dict[str, Any]) -> float:
    """Seconds of the first call of bias_act, by our kernel or by a formula that is compiled for it."""
    import torch

    torch.set_num_threads(task["threads"])
    x, bias = torch.randn(4, 64, 32, 32), torch.randn(64)
    watch = Stopwatch()
    if task["way"] == "pyface":
        from pyface.ops import bias_act

        with watch.running():
            bias_act(x, bias, act="lrelu")
    else:

        def formula(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            y = x + bias.reshape(1, -1, 1, 1)
            return torch.nn.functional.leaky_relu(y, 0.2) * 2**0.5

        with watch.running():
            torch.compile(formula)(x, bias)
    return watch.seconds


def peak_memory(task: dict[str, Any]) -> float:
    """MB resident at the worst moment of a process that loads a synthesis and runs it a few times."""
    run = {"pyface": _torch_run, "torch eager": _torch_run, "OpenVINO": _openvino_run}.get(
        task["way"], _onnxruntime_run
    )(task)
    for _ in range(RUNS):
        run()
    return high_water()


def _torch_run(task: dict[str, Any]) -> Callable[[], object]:
    import torch

    from pyface.models import load

    torch.set_num_threads(task["threads"])
    settings: dict[str, Any] = {"noise_mode": "const"}
    if task["way"] == "pyface":
        network = load(task["network"])
        settings["precision"] = task["dtype"]
    else:
        network = plain_generator(Path(task["network"]))
    ws = torch.randn(task["batch"], 1, network.w_dim).expand(-1, network.num_ws, -1).contiguous()

    def run() -> object:
        with torch.inference_mode():
            return network.synthesis(ws, **settings)

    return run


def _openvino_run(task: dict[str, Any]) -> Callable[[], object]:
    import numpy as np
    import openvino as ov

    model = ov.Core().compile_model(
        task["model"],
        "CPU",
        {
            "INFERENCE_NUM_THREADS": task["threads"],
            "INFERENCE_PRECISION_HINT": "bf16" if task["dtype"] == "bfloat16" else "f32",
        },
    )
    ws = np.random.default_rng(0).standard_normal(tuple(model.input(0).shape)).astype(np.float32)
    return lambda: model([ws])


def _onnxruntime_run(task: dict[str, Any]) -> Callable[[], object]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    session = onnxruntime.InferenceSession(task["model"], options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    inputs = {given.name: np.random.default_rng(0).standard_normal(given.shape).astype(np.float32)}
    return lambda: session.run(None, inputs)


def export(task: dict[str, Any]) -> float:
    """Writes the synthesis as ONNX, in the form with shared weights; the seconds that took."""
    import torch

    from pyface.benchmark.rivals import export_onnx
    from pyface.benchmark.shared_stylegan2 import SharedSynthesis

    torch.set_num_threads(task["threads"])
    watch = Stopwatch()
    with watch.running():
        plain = plain_generator(Path(task["network"]))
        ws = torch.randn(task["batch"], plain.num_ws, plain.w_dim)
        export_onnx(SharedSynthesis(plain).eval(), [ws], Path(task["model"]).parent)
    return watch.seconds


def engine_start(task: dict[str, Any]) -> float:
    """Seconds from the start of this process until an engine has made its first pictures."""
    _engine_run(task)()
    return time.time() - task["started"]


def engine_memory(task: dict[str, Any]) -> float:
    """MB resident at the worst moment of a process that opens an engine and runs it a few times."""
    run = _engine_run(task)
    for _ in range(RUNS):
        run()
    return high_water()


def engine_speed(task: dict[str, Any]) -> float:
    """Pictures a second of an engine that has run before: by processor time with one thread, else by the
    clock."""
    run = _engine_run(task)
    run()
    clock = time.process_time if task["threads"] == 1 else time.perf_counter
    seconds = []
    for _ in range(RUNS):
        start = clock()
        run()
        seconds.append(clock() - start)
    return float(task["batch"] / sorted(seconds)[RUNS // 2])


def _engine_run(task: dict[str, Any]) -> Callable[[], object]:
    import torch

    from pyface.export import open_engine

    torch.set_num_threads(task["threads"])
    settings = {"batch": task["batch"], "device": "cpu"}
    if task["exported"] is None:
        settings["precision"] = task["dtype"]
        engine = open_engine(task["checkpoint"], task["engine"], **settings)
    else:
        engine = open_engine(
            task["exported"], task["engine"], network=task["checkpoint"], force=True, **settings
        )
    z = torch.zeros(task["batch"], engine.z_dim) + 0.1
    return lambda: engine.pixels(engine.mapping(z))


TASKS: dict[str, Callable[[dict[str, Any]], float]] = {
    "first image": first_image,
    "first call": first_call,
    "peak memory": peak_memory,
    "export": export,
    "engine start": engine_start,
    "engine memory": engine_memory,
    "engine speed": engine_speed,
}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(TASKS[asked["task"]](asked)))
