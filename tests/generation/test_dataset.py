"""Datasets from end to end: the same bytes however the work was divided, interrupted or killed."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyface.data import ImageFolder
from pyface.errors import CheckpointError, DataError, ExportError, MissingExtraError, ValueRangeError
from pyface.generation.checking import verify_dataset
from pyface.generation.dataset import EngineSettings, write_dataset
from pyface.generation.manifest import open_store, read_manifest
from pyface.generation.network import load_network
from pyface.generation.plan import Picture
from pyface.generation.regenerate import regenerate
from pyface.generation.sampling import draw_latents
from pyface.generation.shards import members
from pyface.io.checkpoint import save_model
from pyface.io.images import to_uint8
from pyface.models import GeneratorConfig, StyleGAN2Generator
from pyface.training.source import open_training_set

SMALL = {"identities": 12, "samples_per_identity": 3, "seed": 5, "shard_size": 4, "image": "png"}
SETTINGS = EngineSettings(batch=4, threads=1)
# a process that has everything loaded and forks one child for each line of arguments
ZYGOTE = Path(__file__).with_name("zygote.py")


@pytest.fixture(scope="module")
def undisturbed(network, tmp_path_factory):
    """A small dataset of 9 shards."""
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    assert write_dataset(out, network, settings=SETTINGS, **SMALL).complete
    return out


def test_pictures_are_those_of_the_network(network, undisturbed):
    generator, samples = load_network(network), [[1.0, 0.0], [0.0, 1.0]]
    for shard, picture in ((0, Picture(0, 0)), (3, Picture(4, 2))):
        found = dict(members(undisturbed / f"shard-{shard:06d}.tar"))
        told = json.loads(found[f"{picture.key}.json"])
        c = [told["conditions"]["smile"], told["conditions"]["glasses"]]
        assert c in samples
        assert found[f"{picture.key}.cls"] == str(picture.identity).encode()
        z = draw_latents(5, picture.identity, picture.sample, z_dim=8, variation=0.2)
        with torch.no_grad():
            wanted = to_uint8(generator(z, torch.tensor([c]), noise_mode="const"))[0]
        assert np.abs(_decoded(found[f"{picture.key}.png"]).astype(int) - wanted).max() <= 1


def _decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_manifest_says_what_it_was_made_with(undisturbed):
    manifest = read_manifest(undisturbed)
    recipe = manifest.recipe
    assert manifest.complete
    assert manifest.totals["pictures"] == recipe.count == 36
    assert recipe.variation == 0.2
    assert (recipe.conditions, recipe.condition_rule) == (("smile", "glasses"), "samples")
    assert recipe.varying == ("smile", "glasses")
    assert manifest.made_by[0]["name"] == recipe.engine
    assert manifest.made_by[0]["weights_sha256"] == recipe.network_sha256


def test_going_on_from_any_shards_gives_the_same(network, undisturbed, storage, tmp_path):
    out = tmp_path / "set"
    write_dataset(out, network, settings=SETTINGS, **SMALL)
    for shard in (0, 4, 8):
        (out / f"shard-{shard:06d}.json").unlink()
    (out / "shard-000004.tar").unlink()
    (out / ".shard-000008.abcdefgh.tar").write_bytes(b"half")
    seen = []
    written = write_dataset(out, network, settings=SETTINGS, progress=seen.append, **SMALL)
    assert (written.new, written.shards, sum(seen)) == (3, 9, 36)
    assert storage.tree(out) == storage.tree(undisturbed)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert write_dataset(out, network, settings=SETTINGS, **SMALL).new == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}


def test_two_parts_make_the_same_as_one_run(network, undisturbed, storage, tmp_path):
    out = tmp_path / "set"
    for index in (1, 0):
        begun = []
        written = write_dataset(
            out, network, settings=SETTINGS, shard_index=index, num_shards=2, begun=begun.append, **SMALL
        )
        assert written.complete == (index == 0)
        assert begun[0].pictures == (16 if index else 20)
    assert storage.tree(out) == storage.tree(undisturbed)


def test_workers_one_of_which_is_killed_make_the_same(network, storage, tmp_path):
    whole, out, killed, over = tmp_path / "whole", tmp_path / "set", [], threading.Event()
    many = {**SMALL, "identities": 120}
    write_dataset(whole, network, settings=SETTINGS, **many)

    def kill():
        while not killed and not over.wait(0.001):
            if any(out.glob("shard-*.json")):
                killed.extend(child.pid for child in multiprocessing.active_children()[:1])
                for process in killed:
                    os.kill(process, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    seen = []
    written = write_dataset(out, network, settings=SETTINGS, workers=2, progress=seen.append, **many)
    over.set()
    thread.join()
    assert killed
    assert (written.complete, written.new, sum(seen)) == (True, 90, 360)
    assert storage.tree(out) == storage.tree(whole)


def test_batches_of_one_size_make_pictures_independent_of_each_other(network, undisturbed, tmp_path):
    """A dataset of fewer people and other shards shows the same people."""
    fewer = {**SMALL, "identities": 5, "shard_size": 7}
    write_dataset(tmp_path / "set", network, settings=SETTINGS, **fewer)
    whole = {k: v for s in undisturbed.glob("*.tar") for k, v in members(s)}
    part = {k: v for s in (tmp_path / "set").glob("*.tar") for k, v in members(s)}
    assert len(part) == 5 * 3 * 3
    assert all(whole[name] == data for name, data in part.items())


def test_training_data_loaders_open_a_folder(network, tmp_path):
    out = tmp_path / "set"
    write_dataset(out, network, storage="folder", **SMALL)
    data = ImageFolder(out)
    assert len(data) == 36
    assert data.images([7]).shape == (1, 16, 16, 3)
    assert len(open_training_set(str(out))) == 36
    assert set(map(tuple, data.labels(("smile", "glasses")).tolist())) == {(1, 0), (0, 1)}
    assert (out / "VIS" / "000011_002.png").exists()


def test_conditions_can_be_fixed(network, tmp_path):
    write_dataset(tmp_path / "a", network, count=2, condition={"glasses": 0.5})
    write_dataset(tmp_path / "b", network, count=2, label=1)
    assert read_manifest(tmp_path / "a").recipe.condition == (0.0, 0.5)
    assert read_manifest(tmp_path / "b").recipe.condition == (0.0, 1.0)
    write_dataset(tmp_path / "c", network, identities=2, samples_per_identity=2, vary=["smile"])
    assert read_manifest(tmp_path / "c").recipe.varying == ("smile",)


@pytest.mark.parametrize(
    ("choices", "error", "text"),
    [
        ({}, ValueRangeError, "--count.*or --ids.*got neither"),
        ({"count": 3, "identities": 3}, ValueRangeError, "got both"),
        ({"count": 3, "samples_per_identity": 2}, ValueRangeError, "--samples-per-id 2 needs --ids"),
        ({"count": 0}, ValueRangeError, "identities must be a whole number from 1"),
        ({"count": 3, "workers": 0}, ValueRangeError, "workers must be 1 or more; got 0"),
        (
            {"count": 3, "shard_index": 2, "num_shards": 2},
            ValueRangeError,
            "--shard-index must be from 0 to 1",
        ),
        ({"count": 3, "num_shards": 0}, ValueRangeError, "--num-shards must be 1 or more"),
        (
            {"count": 3, "truncation_psi": float("nan")},
            ValueRangeError,
            "psi must be a finite number; got nan",
        ),
        ({"count": 3, "library": "fast"}, ValueRangeError, "library of jpeg must be one of auto, pillow"),
        ({"count": 3, "condition": {"hat": 1}}, ValueRangeError, "its conditions are smile, glasses"),
        ({"count": 3, "label": 2}, ValueRangeError, "--class must be from 0 to 1; got 2"),
        (
            {"identities": 3, "samples_per_identity": 2, "variation": 0.0, "vary": ()},
            ValueRangeError,
            "same picture: variation is 0.*Give --variation more than 0",
        ),
        ({"identities": 3, "samples_per_identity": 2, "vary": ["hat"]}, ValueRangeError, "hat cannot vary"),
        ({"count": 3, "quality": 0}, ValueRangeError, "quality must be a whole number from 1 to 100"),
        ({"count": 3, "settings": EngineSettings("abacus")}, ValueRangeError, "abacus"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(network, tmp_path, choices, error, text):
    with pytest.raises(error, match=text):
        write_dataset(tmp_path / "set", network, **choices)
    assert not (tmp_path / "set").exists()


def test_more_mistakes(network, undisturbed, tmp_path, monkeypatch):
    with pytest.raises(ValueRangeError, match="batch must be 1 or more; got 0"):
        EngineSettings(batch=0)
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        write_dataset(tmp_path / "set", tmp_path / "absent.safetensors", count=3)
    with pytest.raises(DataError, match=r"another recipe \(seed was 5, now 6; shard_size was 4, now 5\)"):
        write_dataset(undisturbed, network, settings=SETTINGS, **{**SMALL, "seed": 6, "shard_size": 5})
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtraError, match=r"pyface-synth\[fast\]"):
        write_dataset(tmp_path / "set", network, count=3, library="imagecodecs")


class Zygote:
    """Runs `pyface generate dataset` in children of a process that has loaded everything already."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, arguments):
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self):
        """Exit status of the child, negative for a signal; waits for its end."""
        status = int(self.process.stdout.readline())
        self.process.stdin.write("\n")
        return status

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def _arguments(network, out, **more):
    options = {"network": network, "out": out, "ids": 60, "samples-per-id": 2, "shard-size": 3, "batch": 3}
    options |= {"image": "png", "workers": 1} | more
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("storage_format", ["shards", "folder"])
def test_killed_twenty_times_it_loses_and_repeats_nothing(network, storage, tmp_path, storage_format):
    """SIGKILL at random moments of the real command, until it has been killed so often and is complete."""
    kills = 20 if storage_format == "shards" else 6
    moments = random.Random(2026)
    with Zygote() as zygote:
        whole, out, begun = tmp_path / "whole", tmp_path / "set", time.monotonic()
        zygote.start(_arguments(network, whole, format=storage_format))
        assert zygote.status() == 0
        duration = time.monotonic() - begun
        found, done, ends = [], 0, 0
        while done < kills:
            wanted = min(len(_finished(out)) + moments.randint(0, 3), len(_finished(whole)))  # + 0: at once
            child = zygote.start(_arguments(network, out, format=storage_format))
            until = time.monotonic() + 60
            while len(_finished(out)) < wanted and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, duration / 30))
            os.kill(child, signal.SIGKILL)
            if zygote.status() == -signal.SIGKILL:
                done += 1
                found.append(_finished(out))
                assert set(found[-1]) <= set(_finished(whole))
            else:  # it was faster than the clock: the next one begins anew
                assert storage.tree(out) == storage.tree(whole)
                ends += 1
                out = tmp_path / f"set{ends}"
        assert len({len(names) for names in found}) >= kills // 3  # it was killed at different places
        zygote.start(_arguments(network, out, format=storage_format))
        assert zygote.status() == 0
    assert storage.tree(out) == storage.tree(whole)
    assert not [path for path in out.rglob(".*") if path.name != ".writers"]


def _finished(out):
    """Names of the records."""
    return sorted(path.name for path in (*out.glob("shard-*.json"), *out.glob("records/chunk-*.json")))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_itself_killed_with_its_workers(network, storage, tmp_path, workers):
    command = [sys.executable, "-m", "pyface", "generate", "dataset"]
    arguments = _arguments(network, tmp_path / "set", workers=workers)
    whole = _arguments(network, tmp_path / "whole")
    subprocess.run([*command, *whole], check=True, capture_output=True)
    moments = random.Random(7)
    for _ in range(6):
        child = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(1, 8))
        child.kill()
        child.wait()
    for _ in range(20):  # a worker of the last run may be about to end
        if subprocess.run([*command, *arguments], check=False, capture_output=True).returncode == 0:
            break
        time.sleep(0.5)
    assert storage.tree(tmp_path / "set") == storage.tree(tmp_path / "whole")


def test_several_spectra_one_of_them_grey(storage, tmp_path):
    torch.manual_seed(1)
    config = GeneratorConfig(
        16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=16, spectra={"vis": 3, "nir": 1}
    )
    save_model(tmp_path / "pair.safetensors", StyleGAN2Generator(config))
    chosen = {"identities": 3, "samples_per_identity": 2, "image": "png"}
    for form in ("shards", "folder"):
        out = tmp_path / form
        write_dataset(out, tmp_path / "pair.safetensors", storage=form, **chosen)
        stored = open_store(out).read(Picture(2, 1))
        assert _decoded(stored.files["vis"]).shape == (16, 16, 3)
        assert _decoded(stored.files["nir"]).shape == (16, 16)
        assert stored.conditions == {}
        assert verify_dataset(out).sound
        assert regenerate(out, 2, 1, network=tmp_path / "pair.safetensors").verdict.endswith("stored one")
    assert ImageFolder(tmp_path / "folder").spectra == ("vis", "nir")


def test_an_exported_file_as_the_engine(network, undisturbed, tmp_path):
    pytest.importorskip("onnxscript", reason='needs the extra "export"')
    from pyface.export.onnx import export_onnx

    exported = tmp_path / "tiny.onnx"
    export_onnx(network, exported, inputs="ws")
    settings = EngineSettings(str(exported))
    write_dataset(tmp_path / "set", network, settings=settings, **SMALL)
    manifest = read_manifest(tmp_path / "set")
    assert manifest.recipe.engine == "onnxruntime"
    assert manifest.complete
    stored, native = (open_store(f).read(Picture(3, 1)) for f in (tmp_path / "set", undisturbed))
    assert stored.conditions == native.conditions
    levels = [_decoded(files.files["vis"]).astype(int) for files in (stored, native)]
    assert np.abs(levels[0] - levels[1]).max() <= 1
    with pytest.raises(ExportError, match="Name the checkpoint it was made of as the network"):
        write_dataset(tmp_path / "x", exported, count=2)
