"""Check what the tree promises: floors, sizes, forbidden names. Prints each breach; exit status 1 on any.

Import directions between Python packages are import-linter's work; this covers what it cannot see.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN_NAMES = {"util", "utils", "common", "misc", "helper", "helpers", "contrib", "legacy"}
SOURCE_SUFFIXES = {".py", ".cpp", ".cu", ".cuh", ".h"}
LONG_FOLDERS = ("csrc/kernels/", "csrc/emu/")
FREE_FOLDERS = ("bench/kernels/",)
MAX_LINES, MAX_KERNEL_LINES, MAX_FUNCTION = 500, 800, 60
CSRC_FOREIGN = re.compile(r"#\s*include\s*[<\"](torch|ATen|c10|pybind11)|namespace\s+(at|c10|torch)\b")


def tracked_files() -> list[str]:
    """Paths of all files that git knows, relative to the root."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listing.splitlines() if (ROOT / name).is_file()]


def check_names(files: list[str]) -> list[str]:
    """No folder or module says its role instead of its thing."""
    return [
        f"{name}: a file or folder may not be called {part!r}; name the thing it holds"
        for name in files
        for part in {Path(p).stem for p in Path(name).parts} & FORBIDDEN_NAMES
    ]


def check_sizes(files: list[str]) -> list[str]:
    """No source file over 500 lines (kernel bodies and emulator 800), no Python function over 60."""
    breaches = []
    for name in files:
        if Path(name).suffix not in SOURCE_SUFFIXES or name.startswith(FREE_FOLDERS):
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        limit = MAX_KERNEL_LINES if name.startswith(LONG_FOLDERS) else MAX_LINES
        if (count := text.count("\n")) > limit:
            breaches.append(f"{name}: {count} lines; at most {limit}")
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > MAX_FUNCTION:
                        breaches.append(
                            f"{name}:{node.lineno}: {node.name} has {length} lines; at most {MAX_FUNCTION}"
                        )
    return breaches


def check_csrc(files: list[str]) -> list[str]:
    """csrc knows neither torch nor pybind11 outside csrc/bindings."""
    return [
        f"{name}: includes torch or pybind11; only csrc/bindings may"
        for name in files
        if name.startswith("csrc/")
        and not name.startswith("csrc/bindings/")
        and not name.endswith(".md")
        and CSRC_FOREIGN.search((ROOT / name).read_text(encoding="utf-8"))
    ]


def check_native_imports(files: list[str]) -> list[str]:
    """Only pyface.ops imports the native modules."""
    pattern = re.compile(r"pyface\._(cpu|cuda|emu)|from pyface import .*_(cpu|cuda|emu)\b")
    return [
        f"{name}: imports a native module; go through pyface.ops"
        for name in files
        if name.startswith("pyface/")
        and name.endswith(".py")
        and not name.startswith("pyface/ops/")
        and pattern.search((ROOT / name).read_text(encoding="utf-8"))
    ]


def check_asserts(files: list[str]) -> list[str]:
    """Input is never checked by `assert`: python -O would drop it."""
    breaches = []
    for name in files:
        if name.startswith("pyface/") and name.endswith(".py"):
            tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
            breaches += [
                f"{name}:{node.lineno}: assert in the package; raise an error of pyface.errors"
                for node in ast.walk(tree)
                if isinstance(node, ast.Assert)
            ]
    return breaches


def main() -> int:
    files = tracked_files()
    breaches = [
        breach
        for check in (check_names, check_sizes, check_csrc, check_native_imports, check_asserts)
        for breach in check(files)
    ]
    print("\n".join(breaches) if breaches else f"tree: {len(files)} files as promised")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
