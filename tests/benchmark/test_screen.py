"""The screen of `pyface bench` from a recorded document, without measuring."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pyface.benchmark import schema
from pyface.benchmark.screen import COLUMNS, LINES, limit_of, screen_lines, speed_of

SCREEN = """\
Some(R) Processor 9000
2 cores, 16 GB; pyface 0.1.0, torch 2.13.0; measured with 1 thread, 72 s

ceilings          copy GB/s   in cache   float32 GFLOP/s   bfloat16 GFLOP/s
1 thread                 10         40               150              1,200
2 threads                14         40               290              1,200

what                                             speed of max   limit      eager
bias and activation, 1x128x256x256 f32       6.71 GB/s    67%   memory     3.00x
synthesis, 1x3x256x256 bf16                   25 img/s    62%   arithmetic 12.0x
rendered faces, VIS and NIR, 8x128x128 f32  57.1 img/s      -   -              -
a call, 1x8x4x4 f32                               6 us     2%   overhead   0.75x
left out: align/x: cv2 is not installed

start-up  import pyface 0.051 s, Python alone 0.024 s, load the demo and make an
          image 0.1 s
memory    synthesis 8x3x256x256 bfloat16 497 MB at the peak, installed 20.7 MB

This machine is fast at bfloat16: 8.0 times its float32 arithmetic; pyface gains
most at "synthesis, bf16": 12.0x torch eager.
The limit is memory in 1 line, arithmetic in 1 line and overhead in 1 line:
memory moves 10 GB/s, so that work of fewer than 15 float32 operations per byte
waits for it; torch eager is faster at "a call, f32" (0.75x)."""


def recorded():
    path = Path(__file__).with_name("recorded_document.py")
    spec = importlib.util.spec_from_file_location("recorded_document", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def document():
    return recorded().document()


def test_recorded_document_follows_the_schema(document):
    pytest.importorskip("jsonschema").validate(document, schema())


def test_screen(document):
    assert "\n".join(screen_lines(document, 71.6)) == SCREEN


def test_screen_is_never_larger_than_a_screen(document):
    long = document["cases"][1] | {
        "screen": "synthesis of very many faces at a time, in " + "long words " * 9
    }
    document["cases"] = [long] * 60
    document["machine"]["cpu"] = "processor " * 20
    lines = screen_lines(document)
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert any(line.startswith("and ") and "more" in line for line in lines)
    assert lines[-1].endswith(".")


def test_screen_of_a_run_that_measured_nothing(document):
    document.update(cases=[], measurements=[], ceilings={})
    lines = screen_lines(document)
    assert lines[0] == "Some(R) Processor 9000"
    assert "left out: align/x: cv2 is not installed" in lines


def test_a_machine_without_fast_bfloat16(document):
    document["ceilings"]["1"]["bfloat16_gflops"] = 140.0
    assert any("float32 as fast as bfloat16" in line for line in screen_lines(document))


def test_the_label_tells_the_type_once(document):
    document["cases"][1]["screen"] = "Faces of 256 px, one, bfloat16"
    assert any(line.startswith("Faces of 256 px, one, bf16  ") for line in screen_lines(document))


def test_speed_and_limit():
    case = recorded().case
    busy = case("a", "layers", "1", 10.0, {}, flops=1_200_000_000)
    assert (speed_of(busy), limit_of(busy)) == ("120 GFLOP/s", "arithmetic")
    slow = case("a", "layers", "1", 100.0, {}, flops=1_200_000_000)
    assert (speed_of(slow), limit_of(slow)) == ("12 GFLOP/s", "overhead")
    copied = case("a", "ops", "1", 10.0, {}, bytes=50_000_000)
    assert (speed_of(copied), limit_of(copied)) == ("5 GB/s", "memory")
    coded = case("a", "encoding", "1", 10.0, {}, bytes=50_000, items=1)
    assert (speed_of(coded), limit_of(coded)) == ("100 img/s", "")
    assert speed_of(case("a", "ops", "1", 10.0, {})) == "10 ms"
    assert speed_of(case("a", "calls", "1", 0.0123, {})) == "12.3 us"


def test_other_ways_have_columns_of_their_own(document):
    document["settings"].update(eager=False, rivals=["OpenVINO", "ONNX Runtime"])
    lines = screen_lines(document)
    assert lines[7].split() == ["what", "speed", "of", "max", "limit", "OpenVINO", "ORT"]
    assert next(line for line in lines if line.startswith("synthesis")).split()[-2:] == ["2.75x", "7.50x"]
    assert max(map(len, lines)) <= COLUMNS
