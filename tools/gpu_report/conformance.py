"""Emulator against GPU: hardware primitives bit for bit, pictures of rendered faces; graphs against eager."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gpu_report.build import require_kernels
from gpu_report.graphs import PRECISIONS, compare_replay
from gpu_report.processes import Place, Worker, emit
from gpu_report.record import Deadline, Record

__all__ = ["compare_faces", "conformance", "conformance_inner", "primitive_input"]

PRIMITIVES = ("mma f16", "mma bf16", "ldmatrix", "ldmatrix trans", "shuffles", "cp.async")
FACE_SIZES = (24, 33, 64)
_GRAPHS = "CUDA graphs"


def conformance(place: Place, record: Record, deadline: Deadline) -> None:
    """Items: primitives by name, faces by size, faces per second, CUDA graphs by precision."""
    Worker.inner(place, "conformance", []).run(record, deadline)


def conformance_inner(events: Path, wanted: list[str] | None, _: str, place: Place) -> None:
    """The worker's side."""
    work: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(compare_primitive, index) for index, name in enumerate(PRIMITIVES)
    }
    for size in FACE_SIZES:
        work[f"faces, {size} px"] = partial(compare_faces, 4, size)
    work["faces per second"] = faces_per_second
    for precision in PRECISIONS:
        work[f"{_GRAPHS}, {precision}"] = partial(compare_replay, precision)
    require_kernels()
    if wanted is None:
        emit(events, plan=list(work))
    for name in wanted or work:
        emit(events, begin=name)
        found = work[name]()
        ok = found.pop("ok", True)
        if ok:
            emit(events, item=name, done=found)
        else:
            pair = "replayed and eager calls" if name.startswith(_GRAPHS) else "GPU and emulator"
            emit(events, item=name, failed=f"{pair} differ: {found}")
        print(f"{name}: {'equal' if ok else 'DIFFERENT'} {found or ''}", flush=True)


def primitive_input(primitive: int, size: int) -> Any:
    """Bytes for a primitive. Sums of the matrix product are exact in float32 in any order of addition."""
    import numpy as np

    random = np.random.default_rng(primitive)
    if primitive > 1:
        return random.integers(1, 120, size, dtype=np.uint8)
    small = random.integers(-8, 9, 384).astype(np.float32)
    halves = small.astype(np.float16).view(np.uint16) if primitive == 0 else (small.view(np.uint32) >> 16)
    c = random.integers(-64, 65, 128).astype(np.float32)
    return np.concatenate([halves.astype(np.uint16).view(np.uint8), c.view(np.uint8)])


def compare_primitive(primitive: int) -> dict[str, Any]:
    """Whether emulator and GPU agree on a hardware primitive, bit for bit."""
    import torch

    from pyface import _cuda, _emu

    in_bytes, out_bytes = _emu.conformance_bytes(primitive)
    given = torch.from_numpy(primitive_input(primitive, in_bytes))
    emulated = torch.zeros(out_bytes, dtype=torch.uint8)
    _emu.conformance(primitive, given.data_ptr(), emulated.data_ptr(), 2)
    on_gpu, measured = given.cuda(), torch.zeros(out_bytes, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    _cuda.conformance(primitive, on_gpu.data_ptr(), measured.data_ptr(), stream)
    torch.cuda.synchronize()
    different = int((measured.cpu() != emulated).sum())
    return {"bytes": out_bytes, "different": different, "ok": different == 0}


def compare_faces(count: int, size: int) -> dict[str, Any]:
    """Shares of pixels on which GPU and emulator agree, and the largest landmark distance in pixels."""
    import numpy as np
    import torch

    from pyface.data import draw_faces
    from pyface.ops import _native
    from pyface.ops.face_render import face_render

    rows = torch.from_numpy(draw_faces(0, np.arange(count), 0).parameters)
    with _native.use("emu", schedule=2):
        emulated = face_render(rows, size)
    measured = {name: value.cpu() for name, value in face_render(rows.cuda(), size, backend="cuda").items()}

    def share(same: Any) -> float:
        return float(same.double().mean())

    result = {
        name: share((emulated[name].int() - measured[name].int()).abs() <= 1) for name in ("vis", "nir")
    }
    result["segmentation"] = share(emulated["segmentation"] == measured["segmentation"])
    result["depth"] = share(torch.isclose(emulated["depth"], measured["depth"], rtol=0, atol=0.01))
    off = float((emulated["landmarks"] - measured["landmarks"]).abs().max())
    ok = min(result.values()) >= 0.999 and off <= 0.01
    return {"share_equal": result, "landmarks_off_px": off, "ok": ok}


def faces_per_second() -> dict[str, Any]:
    """Faces per second at 128 px, all outputs and VIS."""
    import numpy as np
    import torch

    from pyface.data import draw_faces
    from pyface.ops.face_render import OUTPUTS, face_render

    count = 256
    rows = torch.from_numpy(draw_faces(0, np.arange(count), 0).parameters).cuda()
    return {
        name: count / event_ms(partial(face_render, rows, 128, wanted, backend="cuda")) * 1e3
        for name, wanted in (("all outputs", tuple(OUTPUTS)), ("vis", ("vis",)))
    }


def event_ms(work: Callable[[], object], rounds: int = 20) -> float:
    """Median time of `work` between two events, in milliseconds."""
    import torch

    times = []
    for turn in range(rounds + 3):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        if turn >= 3:
            times.append(first.elapsed_time(last))
    return statistics.median(times)
