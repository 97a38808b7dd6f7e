"""`pyface faces`: find, align, cut out and put back the faces of photographs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyface.errors import DataError, PyfaceError

if TYPE_CHECKING:
    from pyface.faces.analyzer import FaceAnalyzer
    from pyface.faces.face import Face, Photo
    from pyface.faces.restore import FaceReconstructor

_PATHS = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group("faces")
def command() -> None:
    """Find, align, cut out and put back the faces of photographs (PNG, JPEG, WebP)."""


def _models(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which networks look for faces."""
    for option, meaning in (("--landmarker", "places landmarks"), ("--detector", "finds faces")):
        words = f"Name or file of the network that {meaning}."
        function = click.option(option, default="default", show_default=True, help=words)(function)
    return function


def _analyzer(detector: str, landmarker: str) -> FaceAnalyzer:
    from pyface.faces.analyzer import FaceAnalyzer
    from pyface.faces.registry import load_detector, load_landmarker

    return FaceAnalyzer(load_detector(detector), load_landmarker(landmarker))


def _bar(files: list[Path], words: str, quiet: bool) -> Iterator[Path]:
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    yield from tqdm(files, desc=words, unit="img", disable=hidden, file=sys.stderr, delay=0.5, leave=False)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


class _Failures:
    """Photographs that could not be worked on: told at once, counted for the exit status."""

    def __init__(self) -> None:
        self.count = 0

    def tell(self, path: Path | str, error: Exception | str) -> None:
        self.count += 1
        text = str(error)
        click.echo(f"pyface: {text}" if str(path) in text else f"pyface: {path}: {text}", err=True)

    def finish(self) -> None:
        if self.count:
            sys.exit(1)


def _found(
    files: list[Path], analyzer: FaceAnalyzer, failures: _Failures, words: str, quiet: bool
) -> Iterator[tuple[Path, Photo, list[Face]]]:
    """Each photograph that can be read, with its faces."""
    from pyface.faces.photos import read_photo

    for path in _bar(files, words, quiet):
        try:
            photo = read_photo(path)
        except DataError as error:
            failures.tell(path, error)
            continue
        yield path, photo, analyzer(photo)


@command.command("detect")
@_PATHS
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: photo, size and faces.")
@_models
@click.option("--quiet", is_flag=True, help="No progress bar.")
def detect(paths: tuple[Path, ...], as_json: bool, detector: str, landmarker: str, quiet: bool) -> None:
    """List the faces of PATHS, photographs or folders of them, with boxes and landmarks.

    Pixels, x right, y down. Files that cannot be read are named, and make the exit status 1.
    """
    from pyface.faces.photos import find_photos

    failures = _Failures()
    files = find_photos(paths)
    for path, photo, faces in _found(files, _analyzer(detector, landmarker), failures, "detecting", quiet):
        if as_json:
            content = {"photo": str(path), "size": list(photo.shape[:2]), "faces": [_plain(f) for f in faces]}
            click.echo(json.dumps(content))
            continue
        click.echo(f"{path}: {_count(len(faces), 'face')}")
        for face in faces:
            left, top, right, bottom = face.box.tolist()
            click.echo(
                f"  {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}  score {face.score:.2f}  "
                f"landmarks {', '.join(face.landmarks) or 'none'}"
            )
    failures.finish()


def _plain(face: Face) -> dict[str, Any]:
    return {
        "box": [round(v, 3) for v in face.box.tolist()],
        "score": round(float(face.score), 5),
        "landmarks": {s: p.astype(float).round(3).tolist() for s, p in face.landmarks.items()},
    }


@command.command("align")
@_PATHS
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the crops.")
@click.option("--template", default="ffhq", show_default=True, help="How a face is laid into the crop.")
@click.option("--size", type=click.IntRange(1, 4096), default=256, show_default=True, help="Pixels per side.")
@_models
@click.option("--quiet", is_flag=True, help="No progress bar.")
def align(
    paths: tuple[Path, ...],
    out: Path,
    template: str,
    size: int,
    detector: str,
    landmarker: str,
    quiet: bool,
) -> None:
    """Lay every face of PATHS into a square picture OUT/PHOTO.NUMBER.png, as networks take them.

    To change faces and put them back use `pyface faces extract`. Crops that are there already stay.
    """
    from pyface.faces.align import align as align_face
    from pyface.faces.photos import find_photos
    from pyface.io.atomic import make_folder
    from pyface.io.images import write_image

    failures = _Failures()
    names = _names(paths, find_photos(paths))
    make_folder(out)
    count = 0
    for path, photo, faces in _found(
        list(names), _analyzer(detector, landmarker), failures, "aligning", quiet
    ):
        for number, face in enumerate(faces):
            target = out / f"{names[path]}.{number}.png"
            try:
                _refuse_existing(target)
                aligned = align_face(photo, face, template, size)
                make_folder(target.parent)
                write_image(target, aligned.image, sync=False)
                count += 1
            except PyfaceError as error:
                failures.tell(path, error)
    click.echo(f"{_count(count, 'face')} of {_count(len(names), 'photograph')} in {out}")
    failures.finish()


def _names(paths: tuple[Path, ...], files: list[Path]) -> dict[Path, str]:
    """file -> its path below the folder it was found in, or its name.

    Raises:
        DataError: two files would get one name.
    """
    names: dict[Path, str] = {}
    owners: dict[str, Path] = {}
    for path in files:
        folder = next((p for p in paths if p.is_dir() and path.is_relative_to(p)), path.parent)
        name = path.relative_to(folder).as_posix()
        if owners.setdefault(name, path) != path:
            raise DataError(f"{owners[name]} and {path} would both be {name}; work on one folder at a time")
        names[path] = name
    return names


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise DataError(f"{target} is there already; remove it or choose another folder")


@command.command("extract")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--template", default="ffhq", show_default=True, help="How a face is laid into the crop.")
@click.option(
    "--size",
    type=click.IntRange(4, 4096),
    default=None,
    help="Pixels per side; by default the photograph's own.",
)
@click.option("--margin", type=float, default=0.0, show_default=True, help="Share of the side shown more.")
@click.option("--mask", type=click.Choice(["hull", "oval", "box"]), default="hull", show_default=True)
@click.option(
    "--dilate", type=float, default=0.02, show_default=True, help="Grow the mask; share of the side."
)
@click.option("--feather", type=float, default=0.06, show_default=True, help="Soft edge; share of the side.")
@_models
@click.option("--quiet", is_flag=True, help="No progress bar.")
def extract(
    source: Path,
    out: Path,
    template: str,
    size: int | None,
    margin: float,
    mask: str,
    dilate: float,
    feather: float,
    detector: str,
    landmarker: str,
    quiet: bool,
) -> None:
    """Cut out every face of SOURCE, a photograph or a folder, to edit it; `restore` puts it back.

    OUT gets PHOTO.NUMBER.png, its mask PHOTO.NUMBER.mask.png, and PHOTO.json, which says where they belong.
    Edit the crops in place, at any size; masks may be edited too. A crop that was edited is never
    overwritten.
    """
    from pyface.faces.extract import FaceExtractor
    from pyface.faces.photos import find_photos
    from pyface.faces.sidecar import write_faces

    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"{out} lies in {source}, where its crops would be taken for photographs; choose another"
        )
    extractor = FaceExtractor(template, size, margin=margin, mask=mask, dilate=dilate, feather=feather)
    failures = _Failures()
    names = _names((source,), find_photos([source]))
    count = 0
    found = _found(list(names), _analyzer(detector, landmarker), failures, "extracting", quiet)
    for path, photo, faces in found:
        crops = []
        for face in faces:
            try:
                crops.append(extractor.extract(photo, face))
            except PyfaceError as error:
                failures.tell(path, error)
        try:
            write_faces(out, names[path], path, crops)
            count += len(crops)
        except DataError as error:
            failures.tell(path, error)
    click.echo(f"{_count(count, 'face')} of {_count(len(names), 'photograph')} in {out}")
    failures.finish()


@command.command("restore")
@click.argument("extracted", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--photos", type=click.Path(path_type=Path), default=None, help="Where the photographs are, if moved."
)
@click.option(
    "--blend", type=click.Choice(["alpha", "poisson", "multiband"]), default="alpha", show_default=True
)
@click.option(
    "--color", type=click.Choice(["none", "reinhard", "histogram"]), default="none", show_default=True
)
@click.option("--feather", type=float, default=None, help="Another soft edge; share of the crop's side.")
@click.option("--erode", type=float, default=0.0, show_default=True, help="Take the mask back; the same.")
@click.option("--sharpen", type=float, default=0.0, show_default=True, help="Unsharp mask; below 0 a blur.")
@click.option(
    "--detail", type=click.Choice(["crop", "photo"]), default="crop", show_default=True,
    help="photo: add only what has changed in the crop.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace pictures in OUT; photographs never are.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def restore(
    extracted: Path,
    out: Path,
    photos: Path | None,
    blend: str,
    color: str,
    feather: float | None,
    erode: float,
    sharpen: float,
    detail: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Put the edited crops of EXTRACTED back, and write each photograph to OUT as PNG.

    Crops that were not edited, or are gone, leave their faces as they are, bit for bit. Photographs are never
    written to. Those that are missing, or have changed since, are named and make the exit status 1.
    """
    from pyface.faces.restore import FaceReconstructor
    from pyface.faces.sidecar import sidecars

    reconstructor = FaceReconstructor(
        blend, color, feather=feather, erode=erode, sharpen=sharpen, detail=detail
    )
    failures = _Failures()
    files = sidecars(extracted)
    originals = _originals(files, photos)
    restored = edited = 0
    for path in _bar(files, "restoring", quiet):
        try:
            edited += _restore_one(path, out, photos, reconstructor, originals, overwrite)
            restored += 1
        except PyfaceError as error:
            failures.tell(path, error)
    click.echo(f"{_count(restored, 'photograph')} with {_count(edited, 'edited face')} in {out}")
    failures.finish()


def _originals(files: list[Path], photos: Path | None) -> set[Path]:
    """All photographs that faces were cut from; of files that cannot be read none."""
    from pyface.faces.sidecar import read_source

    found = set()
    for path in files:
        with contextlib.suppress(DataError):
            photo, name = read_source(path)
            found.add((photo if photos is None else photos / name).resolve())
    return found


def _restore_one(
    sidecar: Path,
    out: Path,
    photos: Path | None,
    reconstructor: FaceReconstructor,
    originals: set[Path],
    overwrite: bool,
) -> int:
    """Write one photograph with its edited faces, and say how many they are."""
    from pyface.faces.photos import read_photo
    from pyface.faces.sidecar import read_faces, same_file
    from pyface.io.atomic import make_folder
    from pyface.io.images import write_image

    saved = read_faces(sidecar)
    photo = saved.photo if photos is None else photos / saved.name
    if not photo.is_file():
        raise DataError(f"{photo} does not exist; say with --photos where the photographs are")
    if not same_file(photo, saved.sha256):
        raise DataError(f"{photo} is not the photograph that was extracted; extract it again")
    target = out / f"{saved.name}.png"
    if target.exists() and (target.samefile(photo) or target.resolve() in originals):
        raise DataError(f"{target} is a photograph itself; choose another folder")
    if not overwrite:
        _refuse_existing(target)
    changed = [(f, c) for f, c in zip(saved.faces, saved.crops, strict=True) if c is not None]
    pixels = reconstructor.restore_all(read_photo(photo), [f for f, _ in changed], [c for _, c in changed])
    make_folder(target.parent)
    write_image(target, pixels, sync=False)
    return len(changed)
