"""What holds for every model: logits of the size of the images, trained parameters, numbers no refactor may change.

After an intended change of a model, write its new golden numbers with
``python tests/trainers/test_models.py``, and say in the commit why they changed.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainers.choices import ARCHITECTURE_FIELDS, BACKBONES, OUTPUT_STRIDES, UNET_SIZES
from trainers.config import ModelConfig
from trainers.models import build_model

GOLDEN_FILE = Path(__file__).with_name("golden_models.json")
REPORTED = ("resnet18", "vgg11_bn", "mobilenet_v3_small")


def deeplab(backbone: str, **fields: Any) -> ModelConfig:
    return ModelConfig(architecture="deeplab", backbone=backbone, decoder_channels=32, **fields)


VARIATIONS = (
    {f"unet-{size}": ModelConfig(size=size, base_channels=8) for size in UNET_SIZES}
    | {
        "unet-attention": ModelConfig(base_channels=8, attention=True),
        "unet-separable": ModelConfig(base_channels=8, convolution="separable"),
        "unet-inverted_bottleneck": ModelConfig(base_channels=8, convolution="inverted_bottleneck"),
        "resunet": ModelConfig(architecture="resunet", base_channels=8),
    }
    | {f"deeplab-{backbone}-aspp": deeplab(backbone) for backbone in REPORTED}
    | {f"deeplab-{backbone}-plain": deeplab(backbone, aspp=False) for backbone in BACKBONES}
    | {
        "deeplab-resnet18-skip": deeplab("resnet18", skip=True),
        "deeplab-vgg11_bn-separable": deeplab("vgg11_bn", separable=True),
        "deeplab-mobilenet_v3_small-skip-separable": deeplab("mobilenet_v3_small", skip=True, separable=True),
    }
    | {
        f"{architecture}-{backbone}": ModelConfig(architecture=architecture, backbone=backbone, decoder_channels=32)
        for architecture in ("fcn", "pspnet")
        for backbone in (*REPORTED, "vgg16_block4")
    }
)


def golden_numbers(config: ModelConfig) -> list[float]:
    """Mean, standard deviation and eight samples of the logits of a seeded model, normalised over its batch."""
    torch.manual_seed(0)
    model = build_model(config, num_classes=5).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    images = torch.linspace(-2, 2, 2 * 3 * 64 * 64).sin().mul(7).cos().reshape(2, 3, 64, 64)
    with torch.inference_mode():
        logits = model(images).flatten()
    samples = logits[:: len(logits) // 8][:8]
    return [round(value, 6) for value in (logits.mean().item(), logits.std().item(), *samples.tolist())]


@pytest.mark.parametrize("name", VARIATIONS)
def test_golden_numbers(name: str) -> None:
    expected = json.loads(GOLDEN_FILE.read_text())[name]
    assert golden_numbers(VARIATIONS[name]) == pytest.approx(expected, rel=2e-3, abs=2e-3 * expected[1])


def test_every_architecture_and_backbone_has_golden_numbers() -> None:
    assert {config.architecture for config in VARIATIONS.values()} == set(ARCHITECTURE_FIELDS)
    assert {config.backbone for config in VARIATIONS.values()} == set(BACKBONES)
    assert set(json.loads(GOLDEN_FILE.read_text())) == set(VARIATIONS)


@pytest.mark.parametrize("name", VARIATIONS)
def test_logits_have_the_size_of_the_images(name: str) -> None:
    with torch.device("meta"):
        model = build_model(VARIATIONS[name], num_classes=5).eval()
        for size in ((32, 32), (33, 47), (50, 64), (61, 95)):
            assert model(torch.empty(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("architecture", "skip"), [("deeplab", True), ("deeplab", False), ("fcn", False), ("pspnet", False)]
)
def test_every_backbone_and_output_stride_trains_on_small_images(architecture: str, skip: bool, backbone: str) -> None:
    strides = [stride for stride in OUTPUT_STRIDES if (backbone, stride) != ("vgg16_block4", 32)]
    for stride in strides:
        config = ModelConfig(
            architecture=architecture, backbone=backbone, output_stride=stride, skip=skip, decoder_channels=8
        )
        with torch.device("meta"):
            model = build_model(config, num_classes=3).train()
            assert model(torch.empty(2, 3, 32, 45)).shape == (2, 3, 32, 45)


@pytest.mark.parametrize("name", VARIATIONS)
def test_outputs_are_logits_and_not_probabilities(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(VARIATIONS[name], num_classes=5).train()
    with torch.inference_mode():
        logits = model(torch.randn(2, 3, 64, 64))
    assert logits.min() < 0
    sums = logits.sum(dim=1)
    assert (sums - 1).abs().mean() > 1e-2
    assert sums.std() > 1e-3


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_parameter_is_trained(name: str) -> None:
    torch.manual_seed(3)
    model = build_model(VARIATIONS[name], num_classes=5).train()
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    weights = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert [name for name, gradient in weights.items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize("name", VARIATIONS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    vectors = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        vectors.append(nn.utils.parameters_to_vector(build_model(VARIATIONS[name], num_classes=5).parameters()))
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


CHANGES: dict[str, Any] = {
    "size": "small",
    "base_channels": 32,
    "convolution": "separable",
    "attention": True,
    "backbone": "vgg11_bn",
    "output_stride": 8,
    "aspp": False,
    "aspp_rates": [1, 2],
    "skip": True,
    "separable": True,
    "decoder_channels": 64,
}


def layers(config: ModelConfig) -> str:
    """The layers as torch prints them, with strides and dilations, and the parameters in them."""
    with torch.device("meta"):
        model = build_model(config, num_classes=3)
    return f"{model} {[tuple(parameter.shape) for parameter in model.parameters()]}"


@pytest.mark.parametrize("architecture", ARCHITECTURE_FIELDS)
def test_a_field_changes_the_identity_exactly_if_it_changes_the_layers(architecture: str) -> None:
    config = ModelConfig(architecture=architecture)
    for name, value in CHANGES.items():
        changed = dataclasses.replace(config, **{name: value})
        same_layers = layers(changed) == layers(config)
        assert (changed.identity() == config.identity()) == same_layers, name
        assert same_layers == (name not in ARCHITECTURE_FIELDS[architecture]), name


if __name__ == "__main__":
    numbers = {name: golden_numbers(config) for name, config in VARIATIONS.items()}
    GOLDEN_FILE.write_text(json.dumps(numbers, indent=1) + "\n")
