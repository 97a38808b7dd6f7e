"""Networks: one module per published architecture, `create` by name, `load` from a checkpoint."""

from pyface.models._generator import Generator, Images, mix_styles
from pyface.models._registry import ARCHITECTURES, Architecture, create, find_checkpoint, load
from pyface.models.action_units import ActionUnitConfig, ActionUnitNetwork
from pyface.models.dlib_resnet import DlibResNet, DlibResNetConfig
from pyface.models.iresnet import IResNet, IResNetConfig
from pyface.models.patch_critic import PatchCritic, PatchCriticConfig
from pyface.models.recognition import FaceRecognition, RecognitionConfig
from pyface.models.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator, nvidia_name_map
from pyface.models.stylegan2_config import DiscriminatorConfig, GeneratorConfig
from pyface.models.truncation import bake_truncation

__all__ = [
    "ARCHITECTURES",
    "ActionUnitConfig",
    "ActionUnitNetwork",
    "Architecture",
    "DiscriminatorConfig",
    "DlibResNet",
    "DlibResNetConfig",
    "FaceRecognition",
    "Generator",
    "GeneratorConfig",
    "IResNet",
    "IResNetConfig",
    "Images",
    "PatchCritic",
    "PatchCriticConfig",
    "RecognitionConfig",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "bake_truncation",
    "create",
    "find_checkpoint",
    "load",
    "mix_styles",
    "nvidia_name_map",
]
