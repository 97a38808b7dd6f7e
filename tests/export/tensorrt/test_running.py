"""Engines loaded and run: what is checked first, and memory, streams and recorded work, on doubles of a GPU.

The double of TensorRT computes by the addresses that it is given, so that tensors which are not where the
engine was told show in the numbers. The last test runs a real engine where there is a GPU.
"""

import contextlib
import json
from dataclasses import replace

import pytest
import torch

from pyface.errors import DTypeError, ExportError, MissingExtraError, ShapeError, ValueRangeError
from pyface.export.artefact import seal, staged
from pyface.export.spec import EngineSpec, TensorSpec
from pyface.export.tensorrt import build_engine, load_engine, loading

WS, WIDTH = 3, 4


class Stream:
    def __init__(self, log, number):
        self.log, self.cuda_stream = log, number

    def wait_stream(self, other):
        self.log.append(("wait", self.cuda_stream, other.cuda_stream))

    def synchronize(self):
        self.log.append(("synchronize", self.cuda_stream))


class Event:
    def __init__(self, log):
        self.log, self.where = log, None

    def record(self, stream):
        self.where = stream.cuda_stream
        self.log.append(("mark", self.where))

    def synchronize(self):
        self.log.append(("reached", self.where))


class FakeDevice:
    """A GPU made of CPU memory: work is done when it is put on a stream; what was asked is in `log`."""

    name = "Fake GPU"

    def __init__(self, index=0):
        self.device = torch.device("cpu")
        self.log = []
        self.streams = 0
        self.default = self.current = self.new_stream()

    def new_stream(self):
        self.streams += 1
        return Stream(self.log, self.streams)

    def empty(self, shape, dtype):
        return torch.full(shape, 77, dtype=dtype)

    pinned = empty

    def current_stream(self):
        return self.current

    def is_default(self, stream):
        return stream is self.default

    def event(self):
        return Event(self.log)

    @contextlib.contextmanager
    def on(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def active(self):
        return contextlib.nullcontext()

    def synchronize(self):
        self.log.append(("synchronize", "all"))

    def record(self, work, stream):
        self.log.append(("record", stream.cuda_stream))
        return lambda: (self.log.append(("replay", stream.cuda_stream)), work())


@pytest.fixture(params=["11", "rtx"])
def double(request, tensorrt_double, monkeypatch, home):
    """A double of TensorRT, on a fake GPU of compute capability 89."""
    module = tensorrt_double(request.param)
    monkeypatch.setattr(loading, "CudaDevice", FakeDevice)
    monkeypatch.setattr(loading, "present_capability", lambda device: 89)
    return module


def artefact(folder, module, *, name="net.engine", plan=None, uint8=False, **changes):
    """An engine of the double: vis = 3 mean(ws) + nothing, and a scalar psi that it takes."""
    rtx = module.KIND == "rtx"
    flavour = "tensorrt-rtx" if rtx else "tensorrt"
    picture = ("batch", 2, 2, 3) if uint8 else ("batch", 3, 2, 2)
    kind = "uint8" if uint8 else "float32"
    spec = EngineSpec(
        flavour, "stylegan2-generator", "whole", "fp16", 20, "transposed",
        (TensorSpec("ws", "float32", ("batch", WS, WIDTH)), TensorSpec("psi", "float32", ())),
        (TensorSpec("vis", kind, picture),),
        uint8=uint8, profile=(1, 4, 8), compute_capabilities=(86, 89),
        versions={flavour: module.__version__},
    )  # fmt: skip
    described = {
        "inputs": {"ws": [-1, WS, WIDTH, "float32"], "psi": ["float32"]},
        "outputs": {"vis": [-1, *picture[1:], kind]},
    }
    with staged(folder / name) as path:
        path.write_bytes(json.dumps(described).encode() if plan is None else plan)
        return seal(path, replace(spec, **changes)).moved(folder / name)


def latents(rows=2, seed=0):
    return torch.randn(rows, WS, WIDTH, generator=torch.Generator().manual_seed(seed))


def expected(ws, shape=(3, 2, 2)):
    return (3 * ws.mean(dim=(1, 2)))[:, None, None, None].expand(-1, *shape)


def given(ws):
    return {"ws": ws, "psi": 0.7}


def test_engine_reads_and_writes_torch_memory(double, tmp_path):
    with load_engine(artefact(tmp_path, double)) as engine:
        ws = latents(3)
        vis = engine.run(given(ws))["vis"]
        torch.testing.assert_close(vis, expected(ws))
        out = torch.zeros(3, 3, 2, 2)
        again = engine.run({"ws": latents(3, 1), "psi": torch.tensor(0.7)}, {"vis": out})["vis"]
        assert again is out
        torch.testing.assert_close(out, expected(latents(3, 1)))
        torch.testing.assert_close(vis, expected(ws))
        assert engine.batches == (1, 8)


def test_default_stream_is_left_to_others(double, tmp_path):
    with load_engine(artefact(tmp_path, double)) as engine:
        double.calls.clear()
        engine.run(given(latents()))
        side = double.calls[-1][1]
        assert double.calls[-1][0] == "execute_async_v3"
        assert side != engine.device.default.cuda_stream
        assert engine.device.log == [("wait", side, 1), ("wait", 1, side)]
        stream = engine.device.new_stream()
        with engine.device.on(stream):
            engine.run(given(latents()))
        assert double.calls[-1][1] == stream.cuda_stream
        assert len(engine.device.log) == 2


def test_fixed_batches_are_recorded_once_and_replayed(double, tmp_path):
    with load_engine(artefact(tmp_path, double)) as engine:
        fixed = engine.fixed(2)
        assert engine.fixed(2) is fixed
        for number in range(5):
            ws = latents(2, number)
            torch.testing.assert_close(fixed(given(ws))["vis"], expected(ws))
            assert fixed.recorded == (number >= 2)
        kinds = [entry[0] for entry in engine.device.log]
        assert kinds.count("record") == 1
        assert kinds.count("replay") == 3
        with pytest.raises(ShapeError, match=r"ws must be \[2, 3, 4\] for this batch; got \[3, 3, 4\]"):
            fixed(given(latents(3)))


def test_recording_is_left_out_where_it_is_not_wanted_or_not_allowed(double, tmp_path):
    built = artefact(tmp_path, double)
    with load_engine(built, cuda_graphs=False) as engine:
        for number in range(4):
            engine.fixed(1)(given(latents(1, number)))
        assert not engine.fixed(1).recorded
    if double.KIND == "rtx":
        double.capturable[0] = False
        with load_engine(built) as engine:
            for number in range(4):
                ws = latents(1, number)
                torch.testing.assert_close(engine.fixed(1)(given(ws))["vis"], expected(ws))
            assert not engine.fixed(1).recorded


def test_results_of_a_stream_come_in_order_one_behind(double, tmp_path):
    with load_engine(artefact(tmp_path, double, uint8=True)) as engine:
        batches = [latents(2, number).abs() * 20 for number in range(7)]
        asked = []

        def source():
            for number, ws in enumerate(batches):
                asked.append(number)
                yield given(ws)

        made = []
        for number, result in enumerate(engine.stream(source(), 2)):
            assert len(asked) == min(number + 2, len(batches))
            made.append(result["vis"].clone())
        for ws, pixels in zip(batches, made, strict=True):
            assert pixels.dtype == torch.uint8
            assert torch.equal(pixels, expected(ws, (2, 2, 3)).to(torch.uint8))
        log = engine.device.log
        assert log[-1][0] == "synchronize"
        marks = [index for index, entry in enumerate(log) if entry[0] == "mark"]
        reached = [index for index, entry in enumerate(log) if entry[0] == "reached"]
        # batch n + 1 is queued before batch n is waited for, and n is waited for before n + 2 is queued
        assert all(marks[n + 1] < reached[n] for n in range(6))
        assert all(reached[n] < marks[n + 2] for n in range(5))


def test_a_stream_without_batches_or_left_early_ends_well(double, tmp_path):
    with load_engine(artefact(tmp_path, double)) as engine:
        assert list(engine.stream([], 2)) == []
        results = engine.stream((given(latents(2, n)) for n in range(5)), 2)
        next(results)
        results.close()
        assert engine.device.log[-1][0] == "synchronize"


def test_what_was_compiled_is_kept_for_the_next_process(double, tmp_path, home):
    built = artefact(tmp_path, double)
    with load_engine(built) as engine:
        engine.run(given(latents()))
    kept = list((home / "tensorrt").glob("*")) if (home / "tensorrt").exists() else []
    if double.KIND != "rtx":
        assert not kept
        return
    assert [path.name for path in kept] == [
        f"runtime-tensorrt-rtx-1.7.1.116-fake-gpu-{built.sha256[:16]}.bin"
    ]
    assert kept[0].read_bytes() == b"empty+compiled"
    with load_engine(built) as engine:
        engine.run(given(latents()))
    assert ["runtime cache", "empty+compiled"] in double.calls
    (tmp_path / "file").touch()
    with (
        pytest.warns(UserWarning, match="are not kept for the next time"),
        load_engine(built, runtime_cache=tmp_path / "file" / "cache.bin") as engine,
    ):
        engine.run(given(latents()))


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        ({"ws": latents()}, ValueRangeError, "inputs are ws, psi; got ws"),
        ({"ws": latents().half(), "psi": 1.0}, DTypeError, "ws must be float32; got torch.float16"),
        ({"ws": latents()[:, :2], "psi": 1.0}, ShapeError, r"ws must be \['batch', 3, 4\]; got \[2, 2, 4\]"),
        ({"ws": latents(8)[::2], "psi": 1.0}, ValueRangeError, "dense memory"),
        ({"ws": latents(9), "psi": 1.0}, ValueRangeError, "takes batches of 1 to 8; got 9.*another profile"),
        ({"ws": latents(0), "psi": 1.0}, ValueRangeError, "takes batches of 1 to 8; got 0"),
        ({"ws": latents(), "psi": float("nan")}, ValueRangeError, "psi must be a finite number; got nan"),
        ({"ws": 1.0, "psi": 1.0}, ShapeError, "ws must be a tensor"),
        ({"ws": torch.empty(2, WS, WIDTH, device="meta"), "psi": 1.0}, ValueRangeError, r"with \.to\(\)"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(double, tmp_path, inputs, error, text):
    with load_engine(artefact(tmp_path, double)) as engine, pytest.raises(error, match=text):
        engine.run(inputs)


def test_buffers_that_do_not_fit_are_refused(double, tmp_path):
    with load_engine(artefact(tmp_path, double)) as engine:
        with pytest.raises(ShapeError, match=r"vis must be \[2, 3, 2, 2\]; got \[3, 3, 2, 2\]"):
            engine.run(given(latents()), {"vis": torch.zeros(3, 3, 2, 2)})
        with pytest.raises(ValueRangeError, match="outputs are vis; got nir"):
            engine.run(given(latents()), {"nir": torch.zeros(2, 3, 2, 2)})
        with pytest.raises(ValueRangeError, match="takes batches of 1 to 8; got 9"):
            engine.fixed(9)
    with pytest.raises(ExportError, match=r"net\.engine is closed; load it again"):
        engine.run(given(latents()))
    with pytest.raises(ExportError, match="is closed"):
        engine.fixed(2)
    engine.close()


def test_engines_for_something_else_are_refused_with_the_field(double, tmp_path, monkeypatch):
    field = "tensorrt-rtx" if double.KIND == "rtx" else "tensorrt"
    other = artefact(tmp_path, double, versions={field: "1.0.0"})
    with pytest.raises(ExportError, match=rf"{field} 1\.0\.0 \(versions\), and .* is here"):
        load_engine(other)
    other = artefact(tmp_path, double, compute_capabilities=(75, 120))
    with pytest.raises(
        ExportError, match=r"75, 120 \(compute_capabilities\), and the GPU here has 89.*--cc 89"
    ):
        load_engine(other)
    other = artefact(tmp_path, double, outputs=(TensorSpec("nir", "float32", ("batch", 3, 2, 2)),))
    with pytest.raises(ExportError, match=r"\(outputs\): it has vis, described are nir"):
        load_engine(other)
    with pytest.raises(ExportError, match="no TensorRT engine: its format is 'onnx'"):
        load_engine(artefact(tmp_path, double, format="onnx"))
    with pytest.raises(ExportError, match="could not be loaded by TensorRT"):
        load_engine(artefact(tmp_path, double, plan=b"foreign"))
    good = artefact(tmp_path, double)
    monkeypatch.setattr(loading, "present_capability", lambda device: None)
    with pytest.raises(ExportError, match=r"86, 89 \(compute_capabilities\), and there is no CUDA device"):
        load_engine(good)
    good.path.write_bytes(b"changed")
    with pytest.raises(ExportError, match="is not the file that was exported: its sha256"):
        load_engine(good)


def test_rtx_is_asked_whether_an_engine_runs_here(tensorrt_double, tmp_path, monkeypatch, home, capsys):
    module = tensorrt_double("rtx")
    monkeypatch.setattr(loading, "CudaDevice", FakeDevice)
    monkeypatch.setattr(loading, "present_capability", lambda device: 89)
    built = artefact(tmp_path, module)
    module.validity[:] = [module.EngineValidity.INVALID, 5]
    with pytest.raises(ExportError, match=r"cannot run here.*version mismatch, old cuda driver"):
        load_engine(built)
    module.validity[:] = [module.EngineValidity.SUBOPTIMAL, 0]
    load_engine(built).close()
    assert "net.engine runs here, but slower" in capsys.readouterr().err


def test_a_missing_library_is_named(tmp_path, tensorrt_double, monkeypatch):
    built = artefact(tmp_path, tensorrt_double("11"))
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"pyface-synth\[tensorrt-cu13\]"):
        load_engine(built)


def test_refused_work_is_an_error(double, tmp_path):
    described = {
        "inputs": {"refused": [-1, WS, WIDTH, "float32"]},
        "outputs": {"vis": [-1, 3, 2, 2, "float32"], "nir": [-1, 1, 2, 2, "float32"]},
    }
    built = artefact(
        tmp_path,
        double,
        plan=json.dumps(described).encode(),
        inputs=(TensorSpec("refused", "float32", ("batch", WS, WIDTH)),),
        outputs=(
            TensorSpec("vis", "float32", ("batch", 3, 2, 2)),
            TensorSpec("nir", "float32", ("batch", 1, 2, 2)),
        ),
    )
    with load_engine(built) as engine, pytest.raises(ExportError, match=r"could not run net\.engine"):
        engine.run({"refused": latents()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_engine_agrees_with_torch(tmp_path):
    pytest.importorskip("onnx", reason='needs the extra "export"')
    pytest.importorskip("tensorrt_rtx", reason='needs the extra "tensorrt-rtx"')
    from pyface.export.tensorrt.library import import_library
    from pyface.export.tensorrt.targets import present_capability

    if present_capability() not in import_library("tensorrt-rtx").targets:
        pytest.skip("TensorRT-RTX does not run on this GPU")
    import pyface

    network = pyface.load("demo").eval().cuda()
    built = build_engine("demo", tmp_path / "demo.engine", precision="fp16", uint8=False, profile=(1, 2, 4))
    z = torch.randn(4, network.z_dim, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    with torch.no_grad(), load_engine(built) as engine:
        ws = network.mapping(z, torch.zeros(4, network.c_dim, device="cuda"))
        truth = network.synthesis(ws, noise_mode="const")
        scale = truth.std()
        found = engine.run({"ws": ws})["vis"]
        assert (found - truth).square().mean().sqrt() < 0.003 * scale
        fixed = engine.fixed(2)
        for _ in range(4):
            torch.testing.assert_close(
                fixed({"ws": ws[:2]})["vis"], found[:2], rtol=0, atol=0.01 * float(scale)
            )
        assert fixed.recorded
        parts = [part["vis"].clone() for part in engine.stream(({"ws": ws[n : n + 2]} for n in (0, 2)), 2)]
        torch.testing.assert_close(torch.cat(parts).cuda(), found, rtol=0, atol=0.01 * float(scale))
