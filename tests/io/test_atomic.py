"""A file is there whole or not at all, and failures are one clear sentence."""

import errno
import os
import stat

import pytest

from pyface.errors import DataError
from pyface.io import atomic
from pyface.io.atomic import (
    atomic_write,
    make_folder,
    only_writer,
    remove_leftovers,
    write_bytes,
    write_text,
)


def test_replaces_in_one_step_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.suffix == ".bin"
        assert temporary.parent == tmp_path
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_mode_is_that_of_an_ordinary_new_file(tmp_path):
    write_text(tmp_path / "a.txt", "text")
    (tmp_path / "plain.txt").write_text("text")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain.txt").stat().st_mode
    )


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_said_and_cleaned_up(tmp_path):
    def write():
        with atomic_write(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match="disk is full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_at_fsync(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(DataError, match="disk is full"):
        write_bytes(tmp_path / "a.bin", b"data")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_file_as_folder_and_folder_as_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        write_bytes(tmp_path / "no" / "a.bin", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="not a folder"):
        write_bytes(tmp_path / "file" / "a.bin", b"")
    with pytest.raises(DataError, match="is a folder"):
        write_bytes(tmp_path, b"")
    with pytest.raises(DataError):
        make_folder(tmp_path / "file")


def test_unwritable_folder(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):  # simulated: root, as in many containers, may write everywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(atomic.tempfile, "mkstemp", refuse)
    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", refuse)
    with pytest.raises(DataError, match="no permission"):
        write_bytes(tmp_path / "a.bin", b"")
    with pytest.raises(DataError, match="no permission"):
        make_folder(tmp_path / "inner")


def test_make_folder_makes_parents_and_is_repeatable(tmp_path):
    folder = make_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(make_folder(folder).iterdir()) == []


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    for name in ("a.png", ".keep", "labels.jsonl"):
        (tmp_path / name).write_bytes(b"")
    child = os.fork()
    if child == 0:
        with atomic_write(tmp_path / "a.png"):
            os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 4
    assert remove_leftovers(tmp_path) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", ".keep", "labels.jsonl"}


def test_only_one_writer(tmp_path):
    def second():
        with only_writer(tmp_path):
            pass

    with only_writer(tmp_path), pytest.raises(DataError, match="another process"):
        second()
    second()
