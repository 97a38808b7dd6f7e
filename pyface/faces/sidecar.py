"""Extracted faces on disk: crops to edit, and beside them one JSON file per photograph that leads back.

For a photograph `party/p1.jpg` the folder holds `party/p1.jpg.0.png` and `.1.png` (the crops),
`party/p1.jpg.0.mask.png` and so on (their masks), and `party/p1.jpg.json`, which is written last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyface.errors import DataError
from pyface.faces.extract import ExtractedFace
from pyface.faces.face import Photo
from pyface.faces.photos import read_photo
from pyface.io.atomic import make_folder, write_text
from pyface.io.images import read_image, write_image

__all__ = ["FORMAT", "SavedFaces", "read_faces", "read_source", "same_file", "sidecars", "write_faces"]

FORMAT = "pyface-extracted-faces"
_VERSION = 1
_ENDING = ".json"


@dataclasses.dataclass
class SavedFaces:
    """The faces of one photograph, as a folder of extracted faces holds them.

    Attributes:
        photo: where the photograph was.
        name: its path below the folder that was extracted.
        sha256: of the photograph's file.
        faces: as they were extracted, but that `image` is black where the crop is gone or has another size.
        crops: what stands in their files now, uint8 [S, S, 3]; None where the file is as it was, or is gone.
    """

    photo: Path
    name: str
    sha256: str
    faces: list[ExtractedFace]
    crops: list[Photo | None]


def write_faces(
    out: str | os.PathLike[str], name: str, photo: str | os.PathLike[str], faces: Sequence[ExtractedFace]
) -> Path:
    """Write the crops and masks of one photograph and the file that leads back; its path is given.

    Args:
        out: folder of extracted faces.
        name: of the photograph, its path below the folder that is extracted.
        photo: its file.
        faces: none is fine.

    Raises:
        DataError: the folder cannot be written, or holds a crop or mask of this photograph that was edited,
            or another picture of such a name.
    """
    path = _sidecar(Path(out), name)
    folder = make_folder(path.parent)
    _remove_unedited(path)
    records = []
    for number, face in enumerate(faces):
        crop, mask = f"{Path(name).name}.{number}.png", f"{Path(name).name}.{number}.mask.png"
        _write_new(folder / crop, face.image)
        _write_new(folder / mask, face.mask)
        records.append(
            {
                "crop": crop,
                "mask": mask,
                "size": face.size,
                "sha256": _sha256(folder / crop),
                "mask_sha256": _sha256(folder / mask),
                "matrix": face.matrix.tolist(),
                "template": face.template,
                "landmarks": {
                    scheme: np.round(points.astype(np.float64), 4).tolist()
                    for scheme, points in face.landmarks.items()
                },
            }
        )
    content = {
        "format": FORMAT,
        "version": _VERSION,
        "name": name,
        "photo": str(Path(photo).resolve()),
        "sha256": _sha256(Path(photo)),
        "photo_size": list(faces[0].photo_size) if faces else None,
        "faces": records,
    }
    write_text(path, json.dumps(content) + "\n", sync=False)
    return path


def read_faces(sidecar: str | os.PathLike[str]) -> SavedFaces:
    """The faces of one photograph with whatever has become of their crops.

    Raises:
        DataError: the file is no such file or is damaged, a mask is missing, or a picture cannot be read.
    """
    path = Path(sidecar)
    content = _content(path)
    faces: list[ExtractedFace] = []
    crops: list[Photo | None] = []
    try:
        for record in content["faces"]:
            mask = read_image(_beside(path, record["mask"]))
            mask = mask if mask.ndim == 2 else mask.max(2)  # saved in colour by an editor
            crop_file = _beside(path, record["crop"])
            crop = read_photo(crop_file) if crop_file.exists() else None
            edited = crop is not None and _sha256(crop_file) != record["sha256"]
            size = int(record["size"])
            if mask.shape != (size, size):
                raise DataError(
                    f"{path.parent / record['mask']} must be {size} x {size} pixels, as it was extracted; it "
                    f"is {mask.shape[1]} x {mask.shape[0]}. Only crops may have another size."
                )
            landmarks = {s: np.array(p, np.float32) for s, p in record["landmarks"].items()}
            height, width = content["photo_size"]
            fits = crop is not None and crop.shape[:2] == mask.shape
            image = crop if crop is not None and fits else np.zeros((size, size, 3), np.uint8)
            matrix = np.array(record["matrix"], np.float64).reshape(2, 3)
            faces.append(ExtractedFace(image, matrix, mask, landmarks, (height, width), record["template"]))
            crops.append(crop if edited else None)
        return SavedFaces(Path(content["photo"]), content["name"], content["sha256"], faces, crops)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error


def read_source(sidecar: str | os.PathLike[str]) -> tuple[Path, str]:
    """Where the photograph of `read_faces` was, and its name; none of its pictures is read.

    Raises:
        DataError: the file is no such file or is damaged.
    """
    content = _content(Path(sidecar))
    try:
        return Path(content["photo"]), str(content["name"])
    except (KeyError, TypeError) as error:
        raise _damaged(Path(sidecar), error) from error


def sidecars(folder: str | os.PathLike[str]) -> list[Path]:
    """All files in a folder of extracted faces that lead back to a photograph, in order of their names.

    Raises:
        DataError: there is none.
    """
    found = sorted(path for path in Path(folder).rglob(f"*{_ENDING}") if _is_sidecar(path))
    if not found:
        raise DataError(f"{folder} holds no extracted faces; make them with `pyface faces extract`")
    return found


def same_file(photo: Path, sha256: str) -> bool:
    """Whether the file is there and has this sum, as the photograph had when it was extracted."""
    return photo.is_file() and _sha256(photo) == sha256


def _sidecar(out: Path, name: str) -> Path:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise DataError(f"a photograph's name must be a path below its folder; got {name!r}")
    return out / f"{name}{_ENDING}"


def _beside(sidecar: Path, name: str) -> Path:
    if Path(name).name != name or name in ("", ".", ".."):
        raise DataError(f"{sidecar} names a file {name!r} in another folder; it was changed. Extract again.")
    return sidecar.parent / name


def _remove_unedited(sidecar: Path) -> None:
    """Make room for another extraction, unless somebody's work would go with the one before."""
    if not sidecar.exists():
        return
    files = [
        (_beside(sidecar, str(record.get(kind))), record.get(sum_of))
        for record in _content(sidecar).get("faces", [])
        for kind, sum_of in (("crop", "sha256"), ("mask", "mask_sha256"))
    ]
    present = [(file, wanted) for file, wanted in files if file.exists()]
    for file, wanted in present:
        if _sha256(file) != wanted:
            raise DataError(
                f"{file} was edited since it was extracted and would be lost; restore it first, remove "
                "it, or extract into another folder"
            )
    sidecar.unlink()
    for file, _ in present:
        file.unlink()


def _write_new(path: Path, pixels: Photo) -> None:
    """Write a picture, but not over another one, such as a photograph of that name."""
    if path.exists() and not np.array_equal(read_image(path), pixels):
        raise DataError(
            f"{path} is there already and belongs to no extraction; remove it or choose another folder"
        )
    write_image(path, pixels, sync=False)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != _VERSION:
        raise DataError(f"{path} does not describe extracted faces of version {_VERSION}; extract again")
    return content


def _is_sidecar(path: Path) -> bool:
    try:
        return f'"{FORMAT}"' in path.read_text(encoding="utf-8")[:200]
    except (OSError, ValueError):
        return False


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged ({error}); extract again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
