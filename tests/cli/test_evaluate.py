"""`pyface evaluate`: the figures it gives, the files it writes, and one clear line for each mistake."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pyface.cli.evaluate import command
from pyface.data import ProceduralFaces
from pyface.errors import PyfaceError
from pyface.io.checkpoint import save_model
from pyface.io.images import write_image
from pyface.models import FaceRecognition, GeneratorConfig, RecognitionConfig, StyleGAN2Generator

DATA = "procedural:60x1@16"


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """Path of a tiny recognition network."""
    torch.manual_seed(0)
    config = RecognitionConfig(resolution=16, channels=(4, 4, 6, 6, 8), num_features=6, embedding_dim=4)
    path = tmp_path_factory.mktemp("extractor") / "tiny.safetensors"
    save_model(path, FaceRecognition(config))
    return path


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    """Path of a tiny generator without conditions."""
    torch.manual_seed(1)
    config = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=1, channel_base=128, channel_max=8)
    path = tmp_path_factory.mktemp("generator") / "plain.safetensors"
    save_model(path, StyleGAN2Generator(config))
    return path


def _call(network, extractor, *arguments):
    given = [network, "--extractor", extractor, "--device", "cpu", *arguments]
    return CliRunner().invoke(command, [str(a) for a in given], catch_exceptions=True)


def test_report_and_sheet(tmp_path, network, extractor):
    out, sheet = tmp_path / "new" / "report.json", tmp_path / "new" / "nearest.png"
    result = _call(
        *(network, extractor, "--data", DATA, "--images", 40, "--out", out, "--sheet", sheet),
        *("--sheet-images", 5, "--truncation-psi", 0.8),
    )
    assert result.exit_code == 0, result.output
    assert "real to real" in result.output
    report = json.loads(out.read_text())
    found = report["comparison"]
    assert found["images"] == 40
    assert found["ratio"] == pytest.approx(found["frechet"] / found["real_to_real"])
    assert found["ratio"] > 1  # random weights draw no faces
    assert 0 <= found["precision"] <= 1
    assert (report["truncation_psi"], report["data"], len(report["sha256"])) == (0.8, DATA, 64)
    assert "seed 1" in report["held_out"]
    assert report["nearest_training"]["training_images"] == 60
    assert Image.open(sheet).size == (4 * (16 + 2 + 3 * 16) + 5 * 6, 2 * 16 + 3 * 6)
    again = tmp_path / "again.json"
    assert _call(network, extractor, "--data", DATA, "--images", 40, "--out", again, "--batch", 7,
                 "--truncation-psi", 0.8).exit_code == 0  # fmt: skip
    assert json.loads(again.read_text())["comparison"]["frechet"] == pytest.approx(found["frechet"], rel=1e-3)


def test_a_folder_is_halved_by_people(tmp_path, unconditional, extractor):
    faces = ProceduralFaces(30, 2, size=32, spectra=("vis",))
    for i, pixels in enumerate(faces.images()):
        write_image(tmp_path / f"{i:03d}.png", pixels, sync=False)
    result = _call(unconditional, extractor, "--data", tmp_path, "--images", 25, "--conditions-from", "data")
    assert result.exit_code == 0, result.output
    assert "half of the people" in result.output
    held_out = _call(unconditional, extractor, "--data", tmp_path, "--images", 25, "--held-out", DATA)
    assert held_out.exit_code == 0, held_out.output
    assert f"held out: {DATA}" in held_out.output


def test_conditions_come_from_the_data_or_from_the_network(network, extractor):
    both = [
        _call(network, extractor, "--data", DATA, "--images", 20, "--conditions-from", where)
        for where in ("data", "network")
    ]
    assert [result.exit_code for result in both] == [0, 0]
    lines = [result.output.splitlines()[1] for result in both]
    assert lines[0] != lines[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "absent"], "absent does not exist"),
        (["--data", DATA, "--images", 61], "holds 60 images; 61 are needed"),
        (["--data", DATA, "--images", 6], "more than 6 images"),
        (["--data", DATA, "--images", 0], "--images must be 1 or more"),
        (["--data", DATA, "--out", "report.txt"], "--out must end in .json"),
        (["--data", DATA, "--sheet", "faces.tiff"], "--sheet must end in .png"),
        (["--data", DATA, "--device", "tpu"], "--device must be auto, cpu, or cuda"),
        (["--data", DATA, "--truncation-psi", "nan"], "--truncation-psi must be a number"),
        (["--data", DATA, "--held-out-seed", 0], "Give another --held-out-seed"),
        (["--data", ".", "--held-out", "./"], "Name other data by --held-out"),
        (["--data", "procedural:5x@16"], "procedural:IDENTITIESxSAMPLES@SIZE"),
        (["--data", DATA, "--held-out", "nowhere"], "nowhere does not exist"),
        (["--data", "procedural:30x1@24", "--images", 10], "cannot be shrunk"),
    ],
)
def test_mistakes_are_named(network, extractor, arguments, text):
    result = _call(network, extractor, *arguments)
    assert isinstance(result.exception, PyfaceError), result.output
    assert text in str(result.exception)


def test_wrong_networks_are_named(tmp_path, network, extractor, unconditional):
    swapped = _call(extractor, extractor, "--data", DATA)
    assert "not a generator" in str(swapped.exception)
    no_extractor = _call(network, unconditional, "--data", DATA)
    assert "a recogniser is needed" in str(no_extractor.exception)
    for i in range(20):
        write_image(tmp_path / f"{i}.png", np.full((16, 16, 3), i, np.uint8), sync=False)
    no_labels = _call(network, extractor, "--data", tmp_path, "--images", 8)
    assert "--conditions-from network" in str(no_labels.exception)
    bare = _call(network, extractor, "--data", tmp_path, "--images", 8, "--conditions-from", "network")
    assert bare.exit_code == 0, bare.output
