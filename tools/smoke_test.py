"""Prove an installed package: native back-end, networks that ship, command line, a training and its report.

Run with the interpreter of a clean environment, outside the source tree.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import pyface
from pyface.models import create
from pyface.ops import bias_act


def main() -> None:
    print(f"pyface {pyface.__version__}, torch {torch.__version__}, back-end {pyface.backend()}")
    x, b = torch.randn(2, 3, 5, 5), torch.randn(3)
    native, reference = (bias_act(x, b, act="lrelu", backend=name) for name in ("cpu", "reference"))
    torch.testing.assert_close(native, reference)
    generator = create(
        "stylegan2-generator", resolution=16, z_dim=16, w_dim=16, channel_base=256, channel_max=16
    )
    image = generator(torch.randn(2, 16))
    if image.shape != (2, 3, 16, 16) or not torch.isfinite(image).all():
        raise SystemExit(f"the generator gave {tuple(image.shape)}")
    faces = pyface.load("recognition-64", kind="recogniser").eval()
    if faces.embedding(torch.zeros(2, 3, 64, 64)).shape != (2, 128):
        raise SystemExit("recognition-64 gives no embeddings")
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "pyface"]
        subprocess.run([*run, "doctor"], check=True)
        faces, images = Path(folder) / "faces", Path(folder) / "images"
        subprocess.run(
            [*run, "data", "procedural", str(faces), "--identities", "2", "--samples", "2", "--size", "64"],
            check=True,
        )
        subprocess.run(
            [*run, "generate", "images", "--network", "demo", "--seeds", "0-3", "--out", str(images)],
            check=True,
        )
        written = len(list(faces.rglob("*.png"))), len(list(images.rglob("*.png")))
        if written != (8, 4):
            raise SystemExit(f"wrote {written} files; want 8 renders (VIS and NIR) and 4 generated images")
        training = ["--kimg", "0.008", "--batch", "4", "--resolution", "16", "--set", "channel_base=256"]
        run_folder = Path(folder) / "run"
        subprocess.run(
            [*run, "train", "stylegan2", "--data", "procedural:4x2@16", "--out", str(run_folder), *training],
            check=True,
        )
        if "<svg" not in (run_folder / "report.html").read_text(encoding="utf-8"):
            raise SystemExit("report.html has no curves")
    print("smoke test passed")


if __name__ == "__main__":
    main()
