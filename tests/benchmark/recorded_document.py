"""A small document as a run gives it: what the screen and the report are tested with."""

from __future__ import annotations

from typing import Any

MACHINE = {
    "device": "cpu", "cpu": "Some(R) Processor 9000", "logical_cores": 2, "memory_gb": 16.0, "gpu": None,
    "gpu_driver": None, "backends": ["cpu: amx"], "threads": 1, "os": "Linux",
    "python": "3.12.1", "torch": "2.13.0", "numpy": "2.0.0", "pyface": "0.1.0", "commit": "0123456789ab",
    "date": "2026-01-02T03:04:05+00:00",
}  # fmt: skip
CEILINGS = {
    "copy_gb_s": 10.0, "cache_gb_s": 40.0, "float32_gflops": 150.0, "bfloat16_gflops": 1200.0,
    "float16_gflops": None, "bfloat16_conv_gflops": 1100.0,
}  # fmt: skip


def quartiles(median: float) -> dict[str, float]:
    return {"median": median, "q1": median * 0.9, "q3": median * 1.1}


def case(
    name: str,
    group: str,
    size: str,
    ms: float,
    others: dict[str, float],
    *,
    dtype: str = "float32",
    screen: str = "",
    items: int = 0,
    bytes: int = 0,
    flops: int = 0,
    threads: int = 1,
    left_out: dict[str, str] | None = None,
    op: str = "",
) -> dict[str, Any]:
    """An entry; others: milliseconds by variant."""
    memory = bytes / CEILINGS["copy_gb_s"] / 1e6
    rate = CEILINGS["bfloat16_gflops" if dtype == "bfloat16" else "float32_gflops"]
    compute = flops / rate / 1e6
    floor = max(memory, compute)
    roofline = {
        "floor_ms": floor,
        "fraction": floor / ms,
        "bound": "memory" if memory >= compute else "compute",
    }
    times = {"pyface": ms, **others}
    return {
        "name": name,
        "group": group,
        "op": op or name.split("/")[0],
        "size": size,
        "dtype": dtype,
        "layout": "-",
        "threads": threads,
        "screen": screen,
        "caches": "warm",
        "bytes": bytes,
        "flops": flops,
        "items": items,
        "gb_per_s": bytes / ms / 1e6 if bytes else None,
        "gflop_per_s": flops / ms / 1e6 if flops else None,
        "items_per_s": items / ms * 1e3 if items else None,
        "roofline": roofline if floor else None,
        "check": {"max_error": 2e-6, "tolerance": 1e-4},
        "variants": {
            way: {
                "cpu_ms": quartiles(time) if threads == 1 else None,
                "wall_ms": quartiles(time),
                "rounds": 5,
                "error": {"max": 2e-6, "max_by_std": 8e-6, "rmse": 1e-6},
            }
            for way, time in times.items()
        },
        "speedup": {way: quartiles(time / ms) for way, time in others.items()},
        "left_out": left_out or {},
    }


def measurement(name: str, value: float, unit: str, variant: str = "pyface") -> dict[str, Any]:
    return {"name": f"process/{name}", "value": value, "unit": unit, "variant": variant}


def document() -> dict[str, Any]:
    """Four cases with a label, one without, two of scaling, and figures of fresh processes."""
    synthesis = "synthesis/1x3x256x256/bfloat16"
    return {
        "format": 2,
        "kind": "pyface-benchmark",
        "machine": dict(MACHINE),
        "settings": {
            "quick": False, "rounds": 5, "only": [], "eager": True, "rivals": [],
            "freed_memory_kept": True,
        },
        "ceilings": {"1": dict(CEILINGS), "2": {**CEILINGS, "copy_gb_s": 14.0, "float32_gflops": 290.0}},
        "cases": [
            case(
                "bias_act/1x128x256x256", "ops", "1x128x256x256", 10.0, {"torch eager": 30.0},
                screen="bias and activation", bytes=67_108_864, flops=25_000_000,
            ),
            case(
                synthesis, "networks", "1x3x256x256", 40.0,
                {"torch eager": 480.0, "torch eager, best form": 60.0, "OpenVINO": 110.0,
                 "ONNX Runtime": 300.0},
                dtype="bfloat16", screen="synthesis", items=1, flops=30_000_000_000, bytes=50_000_000,
                left_out={"torch.compile": "BackendError: no C++ compiler was found"},
            ),
            case(
                "render faces/8x128x128", "renderer", "8x128x128", 140.0, {},
                screen="rendered faces, VIS and NIR", items=8,
            ),
            case(
                "call/bias_act", "calls", "1x8x4x4", 0.006, {"torch eager": 0.0045}, screen="a call",
                bytes=1024,
            ),
            case("blur/1x8x9x9", "ops", "1x8x9x9", 1.0, {"torch eager": 0.5, "torch eager, in place": 0.4}),
            case(
                "scaling/threads/1 at 8 of 256 px/bfloat16", "scaling", "8x3x256x256", 320.0,
                {"torch eager": 4000.0}, dtype="bfloat16", items=8, flops=240_000_000_000, op="threads",
            ),
            case(
                "scaling/threads/2 at 8 of 256 px/bfloat16", "scaling", "8x3x256x256", 170.0,
                {"torch eager": 2100.0}, dtype="bfloat16", items=8, flops=240_000_000_000, op="threads",
                threads=2,
            ),
        ],
        "measurements": [
            measurement("start/import", 0.051, "s"),
            measurement("start/import", 0.024, "s", "Python alone"),
            measurement("first/demo generator: load and first image", 0.1, "s"),
            measurement("first/demo generator: load and first image", 0.05, "s", "torch eager"),
            measurement("memory/synthesis 8x3x256x256 bfloat16", 497.0, "MB"),
            measurement("memory/synthesis 8x3x256x256 bfloat16", 1162.0, "MB", "OpenVINO"),
            measurement("disk/installed", 20.67, "MB"),
        ],
        "skipped": [{"name": "align/x", "reason": "cv2 is not installed"}],
        "failed": [],
    }  # fmt: skip
