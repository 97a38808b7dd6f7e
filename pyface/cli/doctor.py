"""`pyface doctor`: versions, native back-ends, engines, extras, and what a missing one would give."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import click

import pyface

# extra -> (distribution whose presence tells, module to look for, what it gives)
EXTRAS = {
    "faces": ("opencv-python-headless", "cv2", "face detection and mesh landmarks"),
    "export": ("onnxruntime", "onnxruntime", "ONNX export and the onnxruntime engine"),
    "openvino": ("openvino", "openvino", "the OpenVINO engine"),
    "tensorrt-cu12": ("tensorrt-cu12", "tensorrt", "TensorRT engines on CUDA 12"),
    "tensorrt-cu13": ("tensorrt-cu13", "tensorrt", "TensorRT engines on CUDA 13"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX engines"),
    "ray": ("ray", "ray", "generation on a cluster"),
    "ui": ("gradio", "gradio", "the web interface"),
    "fast": ("imagecodecs", "imagecodecs", "faster PNG writing"),
    "hf": ("huggingface-hub", "huggingface_hub", "models and datasets on the Hugging Face hub"),
    "train": ("tensorboard", "tensorboard", "TensorBoard curves while training"),
    "video": ("av", "av", "mp4 output of `pyface generate video` (without it: webp, gif, apng)"),
}
CORE = ("torch", "numpy", "pillow", "click", "tqdm", "safetensors")


def version_of(distribution: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment_lines() -> list[str]:
    """Versions of pyface, Python and the core dependencies, and the variables that steer pyface."""
    lines = [
        f"pyface       {pyface.__version__}",
        f"python       {platform.python_version()} on {platform.platform()}",
    ]
    lines += [f"{name:<12} {version_of(name) or 'MISSING'}" for name in CORE]
    steering = {key: os.environ[key] for key in sorted(os.environ) if key.startswith("PYFACE_")}
    lines += [f"{key}={value}" for key, value in steering.items()] or ["no PYFACE_ variable is set"]
    return lines


def backend_lines() -> list[str]:
    """What the native modules can do here, which back-end the ops will take, and what CUDA convolves by."""
    from pyface.errors import DataError
    from pyface.ops import describe_backends
    from pyface.ops._native import capability
    from pyface.ops.convolution_choice import describe

    try:
        convolutions = describe(capability())
    except DataError as error:
        convolutions = f"error, {error}"
    return [*describe_backends(), f"cuda convolutions: {convolutions}"]


def extra_lines() -> list[str]:
    """One line per extra: its version, or how to get it and what for."""
    lines = []
    for extra, (distribution, module, gives) in EXTRAS.items():
        version = version_of(distribution)
        if version is None and importlib.util.find_spec(module) is not None:
            version = "present"
        if version:
            lines.append(f"{extra:<14} {version:<12} {gives}")
        else:
            lines.append(f"{extra:<14} {'missing':<12} {gives}: pip install 'pyface-synth[{extra}]'")
    return lines


def engine_lines() -> list[str]:
    """One line per engine that runs a generator: whether it can here, and which one auto takes."""
    from pyface.errors import PyfaceError
    from pyface.export import available_engines, choose_engine

    lines = []
    for name, reason in available_engines().items():
        lines.append(f"{name:<14} {'runs' if reason is None else f'no: {reason}'}")
    try:
        choice = choose_engine()
    except PyfaceError as error:  # PYFACE_REQUIRE may forbid what there is
        return [*lines, f"auto: {error}"]
    return [*lines, f"auto takes {choice.name}: {choice.reason}"]


@click.command("doctor")
def command() -> None:
    """Say what is installed, which back-ends and engines run here, and what each missing extra would give."""
    for title, lines in (
        ("Environment", environment_lines()),
        ("Back-ends", backend_lines()),
        ("Engines", engine_lines()),
        ("Extras", extra_lines()),
    ):
        click.echo(f"{title}\n  " + "\n  ".join(lines))
