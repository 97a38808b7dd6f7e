"""Check the built wheel and sdist: contents, libgomp under its own name, no libtorch or driver dependency.

Usage: check_wheel.py FOLDER...
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FOREIGN = re.compile(r"libtorch|libc10|libcuda\.so|libcudart|libnvrtc")
MAX_WHEEL_BYTES = 24 * 2**20
ROOT = Path(__file__).resolve().parent.parent
# parts of the wheel and of the sdist that have to be there
IN_WHEEL = ("pyface/__init__.py", "pyface/_cpu.", "LICENSE", "NOTICE")
IN_SDIST = (
    "CMakeLists.txt",
    "pyproject.toml",
    "Makefile",
    "constraints.txt",
    "csrc/bindings/cpu.cpp",
    "LICENSE",
)


def tracked(*folders: str) -> list[str]:
    """Files of these folders that git knows, relative to the root; none outside of a repository."""
    command = ["git", "ls-files", "-z", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [name for name in done.stdout.split("\0") if name]


def needed_libraries(module: Path) -> list[str]:
    """Names in the module's dynamic section (readelf -d)."""
    text = subprocess.run(["readelf", "-d", str(module)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", text)


def check_wheel(path: Path) -> list[str]:
    """Breaches of the wheel: missing parts, test modules inside, wrong libraries."""
    breaches = []
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        names = wheel.namelist()
        for wanted in (*IN_WHEEL, *tracked("pyface")):  # modules, and what they load: weights, pages, schemas
            if not any(wanted in name for name in names):
                breaches.append(f"{path.name}: {wanted} is missing")
        breaches += [
            f"{path.name}: {name} must not ship"
            for name in names
            if ("/_emu." in name and name.endswith(".so")) or name.startswith(("tests/", "csrc/"))
        ]
        breaches += [
            f"{path.name}: {name}: libgomp must not be bundled (two thread pools)"
            for name in names
            if "libgomp" in name
        ]
        for name in (n for n in names if n.endswith(".so")):
            libraries = needed_libraries(Path(wheel.extract(name, folder)))
            print(f"{name}: {wheel.getinfo(name).file_size / 1024:.0f} KiB, needs {', '.join(libraries)}")
            breaches += [f"{name}: depends on {lib}" for lib in libraries if FOREIGN.search(lib)]
            if any("gomp" in lib and lib != "libgomp.so.1" for lib in libraries):
                breaches.append(f"{name}: libgomp was renamed: {libraries}")
    size = path.stat().st_size
    print(f"{path.name}: {size / 2**20:.2f} MiB")
    if size > MAX_WHEEL_BYTES:
        breaches.append(f"{path.name}: {size} bytes; at most {MAX_WHEEL_BYTES}")
    return breaches


def check_sdist(path: Path) -> list[str]:
    """The sdist holds what a build and a test run need."""
    with tarfile.open(path) as archive:
        names = archive.getnames()
    present = {name.partition("/")[2] for name in names}
    wanted = (*IN_SDIST, *tracked("pyface", "csrc", "tests", "bench", "tools", "docs"))
    return [f"{path.name}: {name} is missing" for name in wanted if name not in present]


def main(folders: list[str]) -> int:
    wheels = [wheel for folder in folders for wheel in Path(folder).glob("*.whl")]
    sdists = [sdist for folder in folders for sdist in Path(folder).glob("*.tar.gz")]
    breaches = [] if wheels and sdists else [f"{' '.join(folders)}: want a wheel and an sdist"]
    breaches += [breach for wheel in wheels for breach in check_wheel(wheel)]
    breaches += [breach for sdist in sdists for breach in check_sdist(sdist)]
    print("\n".join(breaches) or "wheel and sdist are as promised")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
