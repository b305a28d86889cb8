"""The backbones: strides, channels, dilation, and that they are torchvision's feature extractors."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from trainers.choices import BACKBONES, OUTPUT_STRIDES
from trainers.models.backbones import LAYOUTS, build_encoder, dilate, torchvision_name

ENDS_AT = {backbone: 16 if backbone == "vgg16_block4" else 32 for backbone in BACKBONES}
"""Stride of the last features without dilation."""
DILATED = [(backbone, stride) for backbone in BACKBONES for stride in (8, 16) if stride < ENDS_AT[backbone]]


def test_every_backbone_to_choose_from_has_a_layout() -> None:
    assert set(LAYOUTS) == set(BACKBONES)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_encoder_strides_and_channels(backbone: str) -> None:
    ends_at = ENDS_AT[backbone]
    for output_stride in (stride for stride in OUTPUT_STRIDES if stride <= ends_at):
        with torch.device("meta"):
            encoder = build_encoder(backbone, output_stride, "none").eval()
            features = encoder(torch.empty(1, 3, 128, 64))
        assert tuple(feature.shape[1] for feature in features) == encoder.out_channels
        strides = [min(stride, output_stride) for stride in (2, 4, 8, 16, 32) if stride <= ends_at]
        sizes = [(128 // stride, 64 // stride) for stride in strides]
        assert [tuple(feature.shape[2:]) for feature in features] == sizes


@pytest.mark.parametrize("backbone", BACKBONES)
def test_features_are_the_last_ones_of_their_stride(backbone: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(backbone, ENDS_AT[backbone], "none").eval()
        images = torch.empty(1, 3, 128, 128)
        features = encoder(images)
    for stage, finer in zip(encoder.stages[1:], features, strict=False):
        assert isinstance(stage, nn.Sequential)
        if backbone == "vgg16_block4":  # the published FCN counts each pooling to the block before it
            assert stage[:-1](finer).shape[-1] == finer.shape[-1]
        else:
            assert 2 * stage[0](finer).shape[-1] == finer.shape[-1]


@pytest.mark.parametrize(("backbone", "output_stride"), DILATED)
def test_dilation_computes_the_same_features_on_a_denser_grid(backbone: str, output_stride: int) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(backbone, ENDS_AT[backbone], "none").double().eval()
    for module in encoder.modules():
        if isinstance(module, torchvision.ops.SqueezeExcitation):
            module.avgpool = nn.Identity()  # the mean over a denser grid is another mean
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        coarse = encoder(images)[-1]
        dilate(encoder, output_stride)
        dense = encoder(images)[-1]
    step = ENDS_AT[backbone] // output_stride
    assert dense.shape[-1] == step * coarse.shape[-1]
    assert coarse.abs().max() > 0
    assert (dense[..., ::step, ::step] - coarse).abs().max() < 1e-9 * coarse.abs().max()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_encoder_is_torchvisions_feature_extractor(backbone: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(backbone, ENDS_AT[backbone], "none").eval()
    layout = LAYOUTS[backbone]
    last = "layer4" if layout.features is None else f"{layout.features}.{layout.ends[-1] - 1}"
    with torch.device("meta"):
        model = torchvision.models.get_model(torchvision_name(backbone), weights=None).eval()
    extractor = create_feature_extractor(model, {last: "last"})
    names = [name for name in model.state_dict() if name in extractor.state_dict()]
    extractor.load_state_dict(dict(zip(names, encoder.state_dict().values(), strict=True)), assign=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(encoder(images)[-1], extractor(images)["last"])


def test_batch_norm_of_every_backbone_follows_within_a_short_trial() -> None:
    with torch.device("meta"):
        encoders = {backbone: build_encoder(backbone, 16, "none") for backbone in BACKBONES}
    for backbone, encoder in encoders.items():
        momenta = {module.momentum for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)}
        assert momenta == (set() if backbone == "vgg16_block4" else {0.1})
