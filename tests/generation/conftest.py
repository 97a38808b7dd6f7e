"""A tiny conditional generator in a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from pyface.io.checkpoint import save_model
from pyface.models import GeneratorConfig, StyleGAN2Generator


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """Path of a 16 px generator with the conditions smile and glasses."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        16, z_dim=8, w_dim=8, c_dim=2, mapping_layers=2, channel_base=128, channel_max=16
    )
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    facts = {"recipe": {"conditions": ["smile", "glasses"]}, "label_samples": [[1.0, 0.0], [0.0, 1.0]]}
    save_model(path, StyleGAN2Generator(config), extra={"training": facts})
    return path


@pytest.fixture(scope="session")
def storage():
    """The module of `storage.py`: small datasets written without a generator."""
    path = Path(__file__).with_name("storage.py")
    specification = importlib.util.spec_from_file_location("storage", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
