"""Values, gradients and second gradients recorded from the public reference, on every back-end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyface import ops


def tensor(array: Any, grad: bool = False) -> Tensor:
    return torch.from_numpy(array.copy()).double().requires_grad_(grad)


def assert_same(got: Tensor | None, want: Any, relative: float, what: str) -> None:
    want = torch.from_numpy(want).double()
    got = torch.zeros_like(want) if got is None else got.detach().double().cpu()
    assert got.shape == want.shape, what
    assert (got - want).abs().max() <= relative * max(1.0, want.abs().max().item()), what


def second_order(
    grads: list[Tensor], probes: list[Tensor], targets: list[Tensor]
) -> tuple[Tensor | None, ...]:
    s = sum(((g * v).sum() for g, v in zip(grads, probes, strict=True)), torch.zeros((), dtype=torch.float64))
    return torch.autograd.grad(s, targets, allow_unused=True)


def check_case(
    d: Any, key: str, run: Callable[..., Tensor], names: list[str], probes: list[str], place: Any, tol: float
) -> None:
    """Hold forward, first and (where recorded) second gradients of one case to the arrays of file `d`."""
    inputs = [t.detach().requires_grad_() for t in place.put(*(tensor(d[f"{key}_{n}"]) for n in names))]
    y = run(*inputs)
    assert_same(y, d[f"{key}_y"], tol, f"{key} y")
    if f"{key}_dy" not in d:
        return
    dy = place.put(tensor(d[f"{key}_dy"]))[0].requires_grad_()
    grads = torch.autograd.grad(y, inputs, dy, create_graph=True)
    for name, g in zip(names, grads, strict=True):
        assert_same(g, d[f"{key}_d{name}"], tol, f"{key} d{name}")
    if not probes or f"{key}_{probes[0]}" not in d:
        return
    vectors = place.put(*(tensor(d[f"{key}_{p}"]) for p in probes))
    found = second_order(list(grads[: len(probes)]), vectors, [*inputs, dy])
    for name, g in zip([*names, "dy"], found, strict=True):
        assert_same(g, d[f"{key}_g2_{name}"], tol, f"{key} second order {name}")


def test_bias_act(golden: Any, place: Any) -> None:
    d = golden("bias_act.npz")
    for m in d.cases():

        def run(x: Tensor, b: Tensor | None = None, m: dict[str, Any] = m) -> Tensor:
            rest = {k: m.get(k) for k in ("alpha", "gain", "clamp")}
            return ops.bias_act(x, b, m.get("dim", 1), m["act"], **rest, backend=place.backend)

        names = ["x"] if m.get("nobias") else ["x", "b"]
        check_case(d, m["id"], run, names, ["v"], place, 1e-10)


def test_upfirdn2d_and_its_everyday_forms(golden: Any, place: Any) -> None:
    d = golden("upfirdn2d.npz")
    for m in d.cases():
        key = m["id"]
        if key.startswith("setup"):
            continue
        f = torch.from_numpy(d[f"{key}_f"]).to(place.device) if f"{key}_f" in d else None
        keys = ("up", "down", "padding", "flip_filter", "gain")
        kw = {k: m[k] for k in keys if k in m} | {"backend": place.backend}
        op = getattr(ops, m.get("func", "upfirdn2d"))
        check_case(d, key, lambda x, op=op, f=f, kw=kw: op(x, f, **kw), ["x"], [], place, 1e-6)


def test_setup_filter(golden: Any) -> None:
    d = golden("upfirdn2d.npz")
    seen = 0
    for m in d.cases():
        if m.get("func") == "setup_filter":
            kw = {k: v for k, v in m.items() if k not in ("id", "func")}
            got = ops.setup_filter(**kw)
            assert got.dtype == torch.float32
            assert_same(got, d[m["id"]], 1e-7, m["id"])
            seen += 1
    assert seen


def test_conv2d_resample(golden: Any, place: Any) -> None:
    d = golden("conv2d_resample.npz")
    for m in d.cases():
        key = m["id"]
        f = torch.from_numpy(d[f"{key}_f"]).to(place.device) if f"{key}_f" in d else None
        keys = ("up", "down", "padding", "groups", "flip_weight", "flip_filter")
        kw = {k: m[k] for k in keys if k in m} | {"backend": place.backend}

        def run(x: Tensor, w: Tensor, f: Tensor | None = f, kw: dict[str, Any] = kw) -> Tensor:
            return ops.conv2d_resample(x, w, f, **kw)

        check_case(d, key, run, ["x", "w"], ["vx", "vw"], place, 1e-6)


def test_modulated_conv2d(golden: Any, place: Any) -> None:
    d = golden("modulated_conv2d.npz")
    f = ops.setup_filter([1, 3, 3, 1], device=place.device)
    for m in d.cases():
        key = m["id"]
        noise = place.put(tensor(d[f"{key}_noise"]))[0] if f"{key}_noise" in d else None
        kw = {k: m[k] for k in ("up", "down", "padding", "demodulate", "flip_weight")}

        def run(x: Tensor, w: Tensor, s: Tensor, n: Tensor | None = noise, kw: dict[str, Any] = kw) -> Tensor:
            return ops.modulated_conv2d(x, w, s, n, resample_filter=f, **kw, backend=place.backend)

        check_case(d, key, run, ["x", "w", "s"], ["vx", "vw", "vs"], place, 1e-6)


def test_the_activation_table_is_the_recorded_one(golden: Any) -> None:
    import json

    recorded = json.loads(golden("bias_act.npz")["defaults"].item())
    for name, entry in recorded.items():
        alpha, gain = entry["def_alpha"], entry["def_gain"]
        assert ops.ACTIVATIONS[name].alpha == pytest.approx(alpha or 0.0)
        assert ops.ACTIVATIONS[name].gain == pytest.approx(gain)
    assert set(recorded) == set(ops.ACTIVATIONS)
