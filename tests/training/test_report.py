"""report.html: whole, valid, offline, a curve for every column; looked at by a browser if there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pyface.cli.train import command
from pyface.errors import DataError
from pyface.io.images import write_image
from pyface.training.report import ReportPage, write_report
from pyface.training.report.curves import Series, chart, nice_ticks, number
from pyface.training.report.folder import read_run, spread_over

VOID = {"meta", "img", "input", "br"}
COLUMNS = [
    "loss/adversarial",
    "loss/fake",
    "loss/real",
    "loss/r1",
    'loss/<odd> & "own"',
    "augment_p",
    "diversity",
    "images_per_second",
    "seconds",
    "peak_memory_mb",
]


class Page(HTMLParser):
    """Elements, columns with curves and texts of a page; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.columns, self.sources, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if "data-columns" in found:
            self.columns.append(found["data-columns"])
        self.sources += [found[name] for name in ("src", "href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def count(self, tag, of_class=None):
        return sum(
            t == tag and (of_class is None or of_class in a.get("class", "").split()) for t, a in self.tags
        )


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "a <run>"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(1, 31):
        record = {"kimg": 4.0 * i, **{name: abs(float(rng.normal(1 + i / 30, 0.1))) for name in COLUMNS}}
        record["loss/r1"] = 1000.0 / i**3
        if i == 30:
            record["partial"] = True
        lines.append(json.dumps(record))
    (folder / "stats.jsonl").write_text("\n".join([*lines, '{"kimg": 9']))
    events = [
        {"time": "2026-01-02T03:04:05+00:00", "kimg": 0.0, "event": "started"},
        {"time": "2026-01-02T04:04:05+00:00", "kimg": 60.0, "event": "warning", "text": "mind <this>"},
        {"time": "2026-01-02T05:04:05+00:00", "kimg": 120.0, "event": "interrupted", "text": "SIGINT"},
    ]
    events = [
        {"kimg": 30.0, "event": "started"},
        {"kimg": 40.0, "event": "warning", "text": "of old"},
        *events,
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    recipe = {"kimg": 500.0, "gamma": None, "mirror": True, "spectra": {"vis": 3}, "recipe": "stylegan2"}
    recipe |= {"command": "pyface train stylegan2 --data 'a&b'", "images": 12, "data": "my <faces>"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    for name in ("reals", "fakes-init", "fakes-000040", "raw-000040", "fakes-000120", "raw-000120"):
        write_image(folder / f"{name}.png", rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    return folder


def test_the_page_is_whole_and_needs_nothing_from_outside(run_folder):
    text = write_report(run_folder).read_text(encoding="utf-8")
    page = Page(text)
    without_pictures = re.sub(r'"data:image/webp;base64,[^"]*"', "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_pictures)
    assert page.sources
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    policy = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    ]
    words = "".join(page.words)
    for expected in (
        "a <run>",
        "interrupted",
        "mind <this>",
        "SIGINT",
        "my <faces>",
        "--data 'a&b'",
        "of 500 kimg",
    ):
        assert expected in words
    assert "of old" not in words, "a run that was in the folder before"
    for setting in ("gamma", "mirror", "spectra"):
        assert ("dt", {}) in page.tags
        assert setting in words


def test_every_column_has_a_curve_and_last_figures(run_folder):
    text = write_report(run_folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.columns[0] == "loss/adversarial loss/fake loss/real", "losses of one game share a scale"
    assert sorted([*COLUMNS[:3], *page.columns[1:]]) == sorted(COLUMNS)
    assert page.count("svg") == len(page.columns)
    assert page.count("path", "line") == len(COLUMNS)
    assert page.count("path", "mark") == len(page.columns), "the warning is marked in every figure"
    last = json.loads((run_folder / "stats.jsonl").read_text().splitlines()[29])
    for name in COLUMNS:
        assert number(last[name]) in page.words
    assert "log scale" in text


def test_samples_of_checkpoints(run_folder):
    page = Page(write_report(run_folder).read_text(encoding="utf-8"))
    assert page.count("figure", "sheet") == 2
    labels = [a["data-label"] for tag, a in page.tags if tag == "div" and "data-label" in a]
    assert labels == ["start", "40 kimg", "120 kimg", ""]
    assert page.count("div", "pair") == 2
    sliders = [a for tag, a in page.tags if tag == "input" and a["type"] == "range"]
    assert [(a["min"], a["max"], a["value"]) for a in sliders] == [("0", "2", "2")]


def test_long_runs_make_pages_of_bounded_size(tmp_path, run_folder):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for i in range(200, 240):
        write_image(run_folder / f"fakes-{i:06d}.png", pixels)
    record = {"kimg": 1.0, "loss/real": 0.5}
    many = [json.dumps({**record, "kimg": float(i), "loss/real": 0.5 + i % 7}) for i in range(1, 20_001)]
    (run_folder / "stats.jsonl").write_text("\n".join(many))
    path = write_report(run_folder)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.count("div", "frame") == 12 + 1
    assert page.count("path", "band") == 1, "many points are drawn as a mean within a band"
    assert path.stat().st_size < 500_000
    assert spread_over(list(range(43)))[0] == 0
    assert spread_over(list(range(43)))[-1] == 42


def test_runs_that_have_just_begun_or_have_no_sheets(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    assert "no end recorded" in write_report(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "stats.jsonl").write_text('{"kimg": 4.0, "loss/error": 0.25}\n')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.columns == ["loss/error"]
    assert page.count("circle", "dot") == 1
    assert page.count("figure", "sheet") == 0
    (tmp_path / "stats.jsonl").write_text(
        '{"kimg": 4.0, "loss/error": null}\n{"kimg": 8.0, "loss/error": -1}\n'
    )
    assert read_run(tmp_path).column("loss/error") == ([8.0], [-1.0])
    write_report(tmp_path)


def test_each_spectrum_has_its_samples(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    for name in (
        "reals-vis",
        "reals-nir",
        "fakes-000001-vis",
        "fakes-000001-nir",
        "raw-000001-nir",
        "fakes-init-nir",
    ):
        write_image(tmp_path / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    rows = {(row.kind, row.spectrum): row.sheets for row in read_run(tmp_path).sheets}
    assert set(rows) == {("fakes", "nir"), ("fakes", "vis"), ("reals", "nir"), ("reals", "vis")}
    assert [s.label for s in rows["fakes", "nir"]] == ["start", "1 kimg"]
    assert rows["fakes", "nir"][1].raw.name == "raw-000001-nir.png"
    assert rows["fakes", "vis"][0].raw is None


def test_the_command_makes_it_again_and_says_where_nothing_is(tmp_path, run_folder):
    assert "report" in CliRunner().invoke(command, ["--help"]).output
    other = tmp_path / "other.html"
    done = CliRunner().invoke(command, ["report", str(run_folder), "--out", str(other)])
    assert done.exit_code == 0, done.exception
    assert done.output.strip() == str(other)
    assert other.read_bytes() == write_report(run_folder).read_bytes()
    with pytest.raises(
        DataError, match=r"holds no run: neither stats.jsonl nor recipe.json .* --out of pyface train"
    ):
        write_report(tmp_path)
    (run_folder / "recipe.json").write_text("{")
    with pytest.raises(DataError, match=r"recipe.json is damaged"):
        write_report(run_folder)


def test_a_run_ends_with_its_report_however_it_ends(tmp_path, small_run):
    said = []
    run = small_run()
    (tmp_path / "recipe.json").write_text("{}")
    run.trainer.callbacks.append(ReportPage(tmp_path, said.append))
    run.trainer.run(4)
    assert said == [f"report: {tmp_path / 'report.html'}"]
    (tmp_path / "report.html").unlink()
    run.trainer.step = lambda: (_ for _ in ()).throw(RuntimeError("it broke"))
    with pytest.raises(RuntimeError, match="it broke"):
        run.trainer.run(8)
    assert (tmp_path / "report.html").exists()
    (tmp_path / "recipe.json").unlink()
    run.trainer.run(4)
    assert said[-1].startswith("warning: no report was made: ")


def test_axes_have_round_numbers():
    assert nice_ticks(0, 1000) == [0, 200, 400, 600, 800, 1000]
    assert nice_ticks(0.13, 0.61) == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert nice_ticks(5, 5) == [5]
    assert [number(v) for v in (0.25, 999.99, 1234, 25_600, 3.2e6, 0.00003)] == [
        "0.25",
        "1000",
        "1234",
        "25.6k",
        "3.2M",
        "3e-5",
    ]


def test_a_curve_goes_through_its_points():
    svg = chart("t", [Series("a", [0.0, 50.0, 100.0], [0.0, 1.0, 0.5])], zero=True)
    [path] = re.findall(r'class="line c0" d="M([^"]*)"', svg)
    points = [tuple(map(float, p.split())) for p in path.split("L")]
    assert [x for x, _ in points] == [50, 229, 408]
    low, high, middle = (y for _, y in points)
    assert low == 186
    assert high < middle < low
    assert middle == pytest.approx((low + high) / 2, abs=0.1)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium to look at the page")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it(run_folder, tmp_path, width):
    page = write_report(run_folder)
    picture = tmp_path / "page.png"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        ["chromium", *flags, f"--window-size={width},1600", f"--screenshot={picture}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert picture.exists(), done.stderr
    assert "CONSOLE" not in done.stderr, "no error of the script or of the policy"
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    blue = (np.abs(pixels - np.array([0x2A, 0x6F, 0xC9])).sum(2) < 12).sum()
    assert blue > 300, "curves are drawn in the first colour"
