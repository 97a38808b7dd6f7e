"""`pyface export tensorrt` and `tools/build_engine.py`: an engine, what is said of it, mistakes."""

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyface.cli.export_tensorrt import command
from pyface.errors import ExportError, PyfaceError, ValueRangeError
from pyface.export.artefact import open_artefact

TOOL = Path(__file__).parents[2] / "tools" / "build_engine.py"
pytest.importorskip("onnxscript", reason='needs the extra "export"')
pytest.importorskip("tensorrt_rtx", reason='needs the extra "tensorrt-rtx"')


def call(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def built(network, tmp_path_factory):
    """(what the command said, the engine, the ONNX graph that it kept)."""
    folder = tmp_path_factory.mktemp("engine")
    out, graph = folder / "net.engine", folder / "net.onnx"
    result = call(network, out, "--cc", "8.9,120", "--profile", "1,2,4", "--rtx", "--onnx", graph)
    assert result.exit_code == 0, result.output
    return result.output, out, graph


def test_engine_of_a_checkpoint(built):
    said, out, _ = built
    assert "stylegan2-generator in fp16, tensorrt-rtx 1." in said
    assert "for compute capability 89, 120; batches 1 to 4, best 2" in said
    assert "certificate of its graph: passed in " in said
    spec = open_artefact(out).spec
    assert spec.uint8
    assert spec.profile == (1, 2, 4)


def test_engine_of_a_graph(built, tmp_path):
    result = call(built[2], tmp_path / "again.engine", "--cc", "89", "--profile", "2,2,2")
    assert result.exit_code == 0, result.output
    assert open_artefact(tmp_path / "again.engine").spec.precision == "fp16"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("--cc", "90"), ExportError, "does not build for compute capability 90"),
        (("--cc", "ampere"), ValueRangeError, "written as 89"),
        (("--precision", "fp8", "--cc", "86"), ExportError, "fp8 needs compute capability 89"),
        (("--precision", "fp32", "--cc", "75"), ExportError, "Leave 75 out"),
        (("--precision", "half"), ValueRangeError, "precision must be one of"),
        (("--profile", "8,1,32"), ValueRangeError, "with 1 <= smallest <= best <= largest"),
        (("--profile", "a few"), ValueRangeError, "--profile must be"),
        (("--calibration", "0"), ValueRangeError, "got 1800 s and 0 pictures"),
    ],
)
def test_mistakes_are_one_error(network, tmp_path, arguments, error, text):
    result = call(network, tmp_path / "net.engine", *arguments)
    assert isinstance(result.exception, error)
    assert isinstance(result.exception, PyfaceError)
    assert text in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_command_is_in_the_group():
    from pyface.cli.export import command as group

    result = CliRunner().invoke(group, ["tensorrt", "--help"])
    assert result.exit_code == 0
    assert "--rtx / --no-rtx" in result.output


def test_tool_builds_an_engine(built, tmp_path):
    assert len(TOOL.read_text(encoding="utf-8").splitlines()) <= 80
    main = runpy.run_path(str(TOOL))["main"]
    out = tmp_path / "net.engine"
    result = CliRunner().invoke(main, [str(built[2]), str(out), "--cc", "89", "--batch", "2"])
    assert result.exit_code == 0, result.output
    assert "tensorrt-rtx, for 89" in result.output
    assert open_artefact(out).spec.profile == (1, 2, 8)
