"""Networks as OpenVINO models, run by OpenVINO, equal to torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyface.errors import ExportError, MissingExtraError
from pyface.export.artefact import Artefact, open_artefact
from pyface.export.onnx import form_of
from pyface.export.openvino import export_openvino
from pyface.export.runners import open_runner
from pyface.io.images import to_uint8

pytest.importorskip("openvino", reason="needs the extra openvino")
pytest.importorskip("onnxscript", reason="needs the extra export")

Small = Callable[..., Any]
export = functools.partial(export_openvino, certify=False)


@pytest.fixture(scope="module")
def generator(small_network: Small) -> Any:
    return small_network("stylegan2-generator")


def run(artefact: Artefact, tensors: list[Any]) -> list[np.ndarray]:
    given = {spec.name: x.numpy() for spec, x in zip(artefact.spec.inputs, tensors, strict=True)}
    with open_runner(artefact, runtime="openvino", threads=1) as runner:
        found = runner.run(given)
    return [found[spec.name] for spec in artefact.spec.outputs]


def worst(found: list[np.ndarray], wanted: Any) -> float:
    return max(float(np.abs(x - y.numpy()).max() / y.abs().max()) for x, y in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 2e-5), ("fp16", 0.01), ("bf16", 0.1)])
def test_generators(precision: str, limit: float, tmp_path: Path, generator: Any, inputs_of: Small) -> None:
    artefact = export(generator, tmp_path / "net.xml", precision=precision)
    assert list(artefact.files) == ["net.xml", "net.bin"]
    assert open_artefact(artefact.path) == artefact
    spec = artefact.spec
    assert (spec.format, spec.precision, len(spec.onnx_sha256)) == ("openvino", precision, 64)
    assert "openvino" in spec.versions
    form = form_of(generator)
    for rows in (1, 3):
        given = inputs_of(form, rows)
        error = worst(run(artefact, given), form(*given))
        assert error <= limit
        assert precision == "fp32" or error > 1e-5
    numbers = sum(tensor.numel() for tensor in generator.state_dict().values())
    assert (tmp_path / "net.bin").stat().st_size < numbers * (3 if precision == "fp16" else 5)


def test_pixels_and_a_fixed_batch(tmp_path: Path, generator: Any, inputs_of: Small) -> None:
    artefact = export(generator, tmp_path / "net.xml", uint8=True, batch=2, part="synthesis", noise="none")
    form = form_of(generator, part="synthesis", noise="none")
    given = inputs_of(form, 2)
    for pixels, image in zip(run(artefact, given), form(*given), strict=True):
        assert (pixels != to_uint8(image.numpy())).mean() <= 0.01  # halves between two levels


def test_another_network(tmp_path: Path, small_network: Small, inputs_of: Small) -> None:
    network = small_network("stylegan2-discriminator")
    artefact = export(network, tmp_path / "net.xml")
    form = form_of(network)
    given = inputs_of(form, 8)
    assert worst(run(artefact, given), form(*given)) <= 1e-4


def test_refusals(tmp_path: Path, generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match=r"the name of an OpenVINO model ends in \.xml; got 'net\.onnx'"):
        export(generator, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="int8 needs ranges"):
        export(generator, tmp_path / "net.xml", precision="int8")

    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("pyface.export.openvino.importlib.import_module", absent)
    with pytest.raises(MissingExtraError, match=r'pip install "pyface-synth\[openvino,export\]"'):
        export(generator, tmp_path / "net.xml")
    assert list(tmp_path.iterdir()) == []
