"""`OpenCVNetwork`: a network file run by OpenCV's `dnn` module on the CPU."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import CheckpointError, MissingExtraError

__all__ = ["OpenCVNetwork", "opencv"]

Array = npt.NDArray[np.float32]


def opencv() -> Any:
    """The module `cv2`.

    Raises:
        MissingExtraError: OpenCV is not installed, or is version 5 or newer.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError(
            f"finding faces needs OpenCV, which cannot be imported ({error}). "
            "Install it with: pip install 'pyface-synth[faces]'"
        ) from error
    if int(cv2.__version__.partition(".")[0]) >= 5:
        raise MissingExtraError(
            f"finding faces needs OpenCV 4.8 or a later version 4; version {cv2.__version__} is installed. "
            "Install the right one with: pip install 'pyface-synth[faces]'"
        )
    return cv2


class OpenCVNetwork:
    """A `.tflite` file as a function of a batch, the outputs by name.

    A network of OpenCV keeps its state in itself, so every thread reads one of its own at its first call;
    calls from several threads run side by side. Pickles as its path.

    Args:
        path: the file.

    Raises:
        MissingExtraError: OpenCV is not installed.
        CheckpointError: there is no such file, or OpenCV cannot read it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._local = threading.local()
        _ = self._network  # a damaged file is told at once

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._local = threading.local()

    @property
    def _network(self) -> Any:
        network = getattr(self._local, "network", None)
        if network is None:
            network = self._local.network = self._read()
        return network

    def _read(self) -> Any:
        cv2 = opencv()
        if not self.path.is_file():
            raise CheckpointError(f"there is no network file {self.path}.")
        try:
            network = cv2.dnn.readNetFromTFLite(str(self.path))
        except (cv2.error, MemoryError) as error:
            raise CheckpointError(
                f"{self.path} is not a .tflite network that OpenCV can read: {_first_line(error)}"
            ) from error
        if network.empty():
            raise CheckpointError(f"{self.path} holds no layers.")
        return network

    def __call__(self, batch: Array) -> dict[str, Array]:
        """Outputs by name.

        Args:
            batch: float32 [N, C, H, W].

        Raises:
            CheckpointError: the network cannot run on a batch of this shape.
        """
        network = self._network
        names = network.getUnconnectedOutLayersNames()
        cv2 = opencv()
        try:
            network.setInput(np.ascontiguousarray(batch, np.float32))
            outputs = network.forward(names)
        except cv2.error as error:
            raise CheckpointError(
                f"{self.path} does not run on a batch of shape {list(batch.shape)}: {_first_line(error)}"
            ) from error
        return dict(zip(names, outputs, strict=True))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
