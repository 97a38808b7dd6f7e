"""Engines built in a process of their own: by TensorRT-RTX itself, and by doubles of TensorRT 10 and 11."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pyface.errors import DataError, ExportError, ValueRangeError
from pyface.export.artefact import open_artefact
from pyface.export.tensorrt import build as building
from pyface.export.tensorrt import build_engine
from pyface.export.tensorrt.build import run_child

pytest.importorskip("onnx", reason='needs the extra "export"')

ml_dtypes = pytest.importorskip("ml_dtypes", reason='needs the extra "export"')
LIBRARIES = ["installed", "rtx", "10", "11"]


@pytest.fixture
def installed():
    """TensorRT-RTX itself."""
    return pytest.importorskip("tensorrt_rtx", reason='needs the extra "tensorrt-rtx"')


@pytest.fixture(params=LIBRARIES)
def any_library(request, monkeypatch, home):
    """(whether it is TensorRT-RTX, its module): the installed one, or a double on a machine with an H100."""
    if request.param == "installed":
        return True, request.getfixturevalue("installed")
    module = request.getfixturevalue("tensorrt_double")(request.param)
    present = None if request.param == "rtx" else 90
    monkeypatch.setattr(building, "present_capability", lambda: present)
    return request.param == "rtx", module


def test_every_library_keeps_one_contract(any_library, tiny_graph, tmp_path):
    rtx, module = any_library
    out = tmp_path / "net.engine"
    graph = tiny_graph("net.onnx", "Conv", np.float16)
    wanted = (120, 89) if rtx else ()
    built = build_engine(graph, out, profile=(1, 8, 32), compute_capabilities=wanted, rtx=rtx)

    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("net.engine")) == [
        "net.engine",
        "net.engine.json",
    ]
    assert open_artefact(out) == built
    spec = built.spec
    assert spec.format == ("tensorrt-rtx" if rtx else "tensorrt")
    assert spec.versions[spec.format] == module.__version__
    assert spec.profile == (1, 8, 32)
    assert spec.batch is None
    assert spec.precision == "fp16"
    assert spec.compute_capabilities == ((89, 120) if rtx else (90,))
    assert [asdict(tensor) for tensor in spec.inputs] == [
        {"name": "x", "dtype": "float16", "shape": ("batch", 16, 8, 8)}
    ]
    assert len(spec.onnx_sha256) == 64


@pytest.mark.parametrize(("kind", "flags"), [("10", 2), ("11", 0), ("rtx", 2)])
def test_calls_are_those_of_the_version(
    tensorrt_double, tiny_graph, tmp_path, monkeypatch, home, kind, flags
):
    tensorrt_double(kind)
    monkeypatch.setattr(building, "present_capability", lambda: 89)
    rtx = kind == "rtx"
    build_engine(
        tiny_graph(), tmp_path / "a.engine", profile=(1, 2, 4), rtx=rtx,
        compute_capabilities=(86, 89) if rtx else (),
    )  # fmt: skip
    calls = json.loads((tmp_path / "a.engine").read_bytes())["calls"]
    assert ["create_network", flags] in calls
    assert ["set_shape", "x", [1, 16, 8, 8], [2, 16, 8, 8], [4, 16, 8, 8]] in calls
    assert (["set_compute_capability", 86, 0] in calls) == rtx
    assert (["set_compute_capability", 89, 1] in calls) == rtx
    assert (["set_timing_cache", False] in calls) != rtx


def test_measurements_of_one_build_serve_the_next(tensorrt_double, tiny_graph, tmp_path, monkeypatch, home):
    tensorrt_double("11")
    monkeypatch.setattr(building, "present_capability", lambda: 90)
    graph, cache = tiny_graph(), tmp_path / "timing.bin"

    def given():
        build_engine(graph, tmp_path / "a.engine", rtx=False, timing_cache=cache)
        calls = json.loads((tmp_path / "a.engine").read_bytes())["calls"]
        return [call[1] for call in calls if call[0] == "create_timing_cache"]

    assert given() == [""]
    assert cache.read_bytes() == b"+measured"
    assert given() == ["+measured"]
    cache.write_bytes(b"other GPU")
    assert given() == ["other GPU", ""]
    assert cache.read_bytes() == b"+measured"
    build_engine(graph, tmp_path / "a.engine", rtx=False)
    assert [path.name for path in (home / "tensorrt").iterdir()] == ["timing-tensorrt-11.4.0.106-.bin"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "unreadable.onnx",
            r"could not read the graph: an operator that it does not know \(node odd_node, Odd\)",
        ),
        ("unbuildable.onnx", "(?s)could not build the engine: no kernel for this graph.*The last lines"),
    ],
)
def test_refusals_of_the_library_are_told(
    tensorrt_double, tiny_graph, tmp_path, monkeypatch, home, name, text
):
    tensorrt_double("11")
    monkeypatch.setattr(building, "present_capability", lambda: 90)
    with pytest.raises(ExportError, match=text):
        build_engine(tiny_graph(name), tmp_path / "a.engine", rtx=False)
    assert not list(tmp_path.glob("*a.engine*"))


def test_a_build_that_hangs_is_ended(tensorrt_double, tiny_graph, tmp_path, monkeypatch, home):
    tensorrt_double("rtx")
    began = time.monotonic()
    with pytest.raises(ExportError, match=r"not built within 3 s.*--timeout"):
        build_engine(tiny_graph("hangs.onnx"), tmp_path / "a.engine", rtx=True, timeout_s=3)
    assert time.monotonic() - began < 20
    assert not list(tmp_path.glob("*a.engine*"))


def child(tmp_path, text):
    script = tmp_path / "child.py"
    script.write_text(text)
    return script


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os, sys; print('terminate called', file=sys.stderr, flush=True); os.abort()",
         r"(?s)was ended by SIGABRT\..*The last lines.*\nterminate called"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "by SIGKILL, most likely for lack of m"),
        ("raise RuntimeError('no such thing')", "(?s)ended with status 1.*RuntimeError: no such thing"),
        ("pass", r"ended with status 0\."),
        ("import ctypes; ctypes.string_at(0)", "ended by SIGSEGV"),
    ],
)  # fmt: skip
def test_a_child_that_dies_is_an_error_with_its_last_words(tmp_path, text, told):
    with pytest.raises(ExportError, match=told):
        run_child({"flavour": "tensorrt-rtx"}, 30, script=child(tmp_path, text))


def test_processes_of_a_child_end_with_it(tmp_path):
    note = tmp_path / "pid"
    script = child(
        tmp_path,
        "import subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(note)!r}, 'w').write(str(other.pid))\n"
        "time.sleep(60)\n",
    )
    with pytest.raises(ExportError, match="not built within 2 s"):
        run_child({"flavour": "tensorrt-rtx"}, 2, script=script)
    assert gone(int(note.read_text()))


def gone(pid):
    """Whether a process has ended within 5 s."""
    state = Path(f"/proc/{pid}/stat")
    for _ in range(50):
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


def test_a_build_ends_with_the_process_that_waits_for_it():
    child = (
        "import os, time; from pyface.export.tensorrt.build_child import end_with_parent; end_with_parent(); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", parent],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:
        pid = int(process.stdout.readline())
        process.kill()
    assert gone(pid)


def test_a_build_tells_what_it_did(tensorrt_double, tiny_graph, tmp_path):
    tensorrt_double("11")
    job = {"flavour": "tensorrt", "onnx": str(tiny_graph()), "out": str(tmp_path / "a.engine")}
    done = run_child({**job, "profile": None, "capabilities": [90], "timing_cache": None}, 30)
    assert done.layers == 1
    assert done.seconds >= 0
    assert done.warnings == ("this is a double",)


def test_a_parser_that_ends_its_process_does_not_end_this_one(installed, tiny_graph, tmp_path):
    """The real parser, of a graph whose node is a registered plug-in's: it calls std::terminate."""
    script = child(
        tmp_path,
        """
import sys
import tensorrt_rtx as trt

class Plugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    def __init__(self):
        for base in (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
            base.__init__(self)
        self.plugin_name, self.plugin_namespace, self.plugin_version = "Ours", "", "1"
        self.num_outputs = 1

    def get_capability_interface(self, kind):
        return self

class Creator(trt.IPluginCreatorV3One):
    def __init__(self):
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_namespace, self.plugin_version = "Ours", "", "1"
        self.field_names = trt.PluginFieldCollection([])

    def create_plugin(self, name, fields, phase):
        return Plugin()

creator = Creator()
trt.get_plugin_registry().register_creator(creator, "")
from pyface.export.tensorrt.build_child import main
main(sys.argv[1])
""",
    )
    job = {
        "flavour": "tensorrt-rtx",
        "onnx": str(tiny_graph("net.onnx", "Ours")),
        "out": str(tmp_path / "a.engine"),
        "profile": {"x": [[1, 16, 8, 8], [2, 16, 8, 8], [4, 16, 8, 8]]},
        "capabilities": [89],
    }
    with pytest.raises(ExportError, match="was ended by SIGABRT"):
        run_child(job, 60, script=script)


@pytest.mark.parametrize(
    ("kind", "dtype", "targets"),
    [
        ("Conv", "float32", (75, 80, 86, 89, 120, 121)),
        ("ConvTranspose", "float16", (75, 89)),
        ("Conv", "bfloat16", (80, 120)),
        ("MatMul", "float32", ()),
    ],
)
def test_rtx_builds_what_is_let_through(installed, tiny_graph, tmp_path, kind, dtype, targets):
    graph = tiny_graph("net.onnx", kind, getattr(ml_dtypes, dtype, None) or np.dtype(dtype))
    built = build_engine(graph, tmp_path / "a.engine", compute_capabilities=targets)
    assert built.spec.compute_capabilities == (targets or (80, 86, 89, 120, 121))
    assert built.size > 1000


@pytest.mark.parametrize(
    ("kind", "dtype", "target"),
    [("MatMul", "float32", 75), ("ConvTranspose", "bfloat16", 89), ("Conv", "bfloat16", 75)],
)
def test_what_is_refused_before_the_build_fails_in_it(installed, tiny_graph, tmp_path, kind, dtype, target):
    """The rules are those of the library: what they refuse, it cannot build."""
    graph = tiny_graph("net.onnx", kind, getattr(ml_dtypes, dtype, None) or np.dtype(dtype))
    with pytest.raises(ExportError, match=r"Leave|Export with"):
        build_engine(graph, tmp_path / "a.engine", compute_capabilities=(target,))
    shape = [16] if kind == "MatMul" else [16, 8, 8]
    job = {
        "flavour": "tensorrt-rtx",
        "onnx": str(graph),
        "out": str(tmp_path / "b.engine"),
        "profile": {"x": [[rows, *shape] for rows in (1, 2, 4)]},
        "capabilities": [target],
    }
    with pytest.raises(ExportError, match="tensorrt-rtx could not build the engine"):
        run_child(job, 60)


def test_a_graph_of_a_fixed_batch_needs_no_profile(installed, tiny_graph, tmp_path):
    built = build_engine(tiny_graph(batch=4), tmp_path / "a.engine", profile=None, compute_capabilities=(89,))
    assert built.spec.batch == 4
    assert built.spec.profile is None


def test_a_graph_with_weights_in_a_file_of_their_own_is_built(installed, tiny_graph, tmp_path):
    import onnx

    graph = tiny_graph()
    onnx.save(
        onnx.load(str(graph)), str(graph), save_as_external_data=True, location="net.onnx.data",
        size_threshold=0,
    )  # fmt: skip
    assert (tmp_path / "net.onnx.data").stat().st_size >= 16 * 16 * 9 * 4
    built = build_engine(graph, tmp_path / "a.engine", compute_capabilities=(89,))
    assert built.size > 16 * 16 * 9 * 4
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ExportError, match="could not read the graph"):
        build_engine(graph, tmp_path / "b.engine", compute_capabilities=(89,))


def test_options_out_of_range_are_refused(installed, tiny_graph, tmp_path):
    graph, out = tiny_graph(), tmp_path / "a.engine"
    with pytest.raises(ValueRangeError, match="got 0 s and 64 pictures"):
        build_engine(graph, out, timeout_s=0)
    with pytest.raises(ValueRangeError, match="got 1800 s and 0 pictures"):
        build_engine(graph, out, calibration=0)
    with pytest.raises(ExportError, match=r"net\.onnx computes in fp32, asked for was fp16"):
        build_engine(graph, out, precision="fp16")
    with pytest.raises(ExportError, match="needs a profile"):
        build_engine(graph, out, profile=None)
    with pytest.raises(DataError, match="the folder does not exist; make it first"):
        build_engine(graph, tmp_path / "nowhere" / "a.engine")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("pyface.export.tensorrt.build_child", ("torch", "onnx", "numpy", "tensorrt", "tensorrt_rtx")),
        (
            "pyface.export.tensorrt.build, pyface.export.tensorrt.loading, pyface.cli.export_tensorrt",
            ("onnx", "onnxscript", "onnxruntime", "openvino", "ml_dtypes", "tensorrt", "tensorrt_rtx"),
        ),
    ],
)
def test_importing_brings_no_runtime(modules, absent):
    code = f"import sys, {modules}; print([name for name in {absent!r} if name in sys.modules])"
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.strip() == "[]"
