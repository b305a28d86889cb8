"""The four models with published parameter counts, to the unit and layer by layer, at 21 classes and 128 x 128."""

import pytest
import torch
from torch import nn

from trainers.config import ModelConfig
from trainers.models import build_model

UNET_ORIGINAL = """
conv3 3-64 @128, norm 64, conv3 64-64 @128, norm 64
conv3 64-128 @64, norm 128, conv3 128-128 @64, norm 128
conv3 128-256 @32, norm 256, conv3 256-256 @32, norm 256
conv3 256-512 @16, norm 512, conv3 512-512 @16, norm 512
conv3 512-1024 @8, norm 1024, conv3 1024-1024 @8, norm 1024
up2 1024-512 @16, conv3 1024-512 @16, conv3 512-512 @16
up2 512-256 @32, conv3 512-256 @32, conv3 256-256 @32
up2 256-128 @64, conv3 256-128 @64, conv3 128-128 @64
up2 128-64 @128, conv3 128-64 @128, conv3 64-64 @128
conv1 64-21 @128
"""
UNET_MEDIUM = """
conv3 3-64 @128, norm 64, conv3 64-64 @128, norm 64
conv3 64-128 @64, norm 128, conv3 128-128 @64, norm 128
conv3 128-256 @32, norm 256, conv3 256-256 @32, norm 256
conv3 256-512 @16, norm 512, conv3 512-512 @16, norm 512
up2 512-256 @32, conv3 512-256 @32, conv3 256-256 @32
up2 256-128 @64, conv3 256-128 @64, conv3 128-128 @64
up2 128-64 @128, conv3 128-64 @128, conv3 64-64 @128
conv1 64-21 @128
"""
UNET_SMALL = """
conv3 3-64 @128, norm 64, conv3 64-64 @128, norm 64
conv3 64-128 @64, norm 128, conv3 128-128 @64, norm 128
conv3 128-512 @32, norm 512, conv3 512-512 @32, norm 512
up2 512-128 @64, conv3 256-128 @64, conv3 128-128 @64
up2 128-64 @128, conv3 128-64 @128, conv3 64-64 @128
conv1 64-21 @128
"""
FCN = """
conv3 3-64 @128, conv3 64-64 @128, pool2 @64
conv3 64-128 @64, conv3 128-128 @64, pool2 @32
conv3 128-256 @32, conv3 256-256 @32, conv3 256-256 @32, pool2 @16
conv3 256-512 @16, conv3 512-512 @16, conv3 512-512 @16, pool2 @8
conv7 512-1024 @8, dropout, conv1 1024-1024 @8, dropout, conv1 1024-21 @8
"""
PUBLISHED = {
    "unet-original": (ModelConfig(size="original"), 31_040_981, UNET_ORIGINAL),
    "unet-medium": (ModelConfig(size="medium"), 7_702_485, UNET_MEDIUM),
    "unet-small": (ModelConfig(size="small"), 4_062_933, UNET_SMALL),
    "fcn": (ModelConfig(architecture="fcn", backbone="vgg16_block4"), 34_397_525, FCN),
}


def describe(module: nn.Module, output: torch.Tensor) -> str | None:
    """Kind, kernel, channels in and out, and side of the output of one layer; None for those without a shape."""
    match module:
        case nn.Conv2d():
            return f"conv{module.kernel_size[0]} {module.in_channels}-{module.out_channels} @{output.shape[-1]}"
        case nn.ConvTranspose2d():
            return f"up{module.kernel_size[0]} {module.in_channels}-{module.out_channels} @{output.shape[-1]}"
        case nn.BatchNorm2d():
            return f"norm {module.num_features}"
        case nn.MaxPool2d():
            return f"pool{module.kernel_size} @{output.shape[-1]}"
        case nn.Dropout():
            return "dropout"
    return None


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_layers_are_the_published_ones(name: str) -> None:
    config, params, expected = PUBLISHED[name]
    layers: list[str | None] = []
    with torch.device("meta"):
        model = build_model(config, num_classes=21)
        for module in model.modules():
            module.register_forward_hook(lambda module, _, output: layers.append(describe(module, output)))
        logits = model(torch.empty(1, 3, 128, 128))
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == params
    assert [layer for layer in layers if layer] == expected.strip().replace("\n", ", ").split(", ")
    assert logits.shape == (1, 21, 128, 128)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(convolution.bias is not None for convolution in convolutions)


def test_resunet_has_the_published_number_of_parameters_but_for_shortcuts() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(architecture="resunet"), num_classes=1)
    params = sum(parameter.numel() for name, parameter in model.named_parameters() if "shortcut" not in name)
    assert round(params / 1e6, 1) == 7.8
