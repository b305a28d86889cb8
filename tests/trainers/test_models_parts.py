"""The parts of models: attention gates, kinds of convolution, context, pyramid pooling, skip connections."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual

from trainers.choices import UNET_SIZES
from trainers.config import ModelConfig
from trainers.models import build_model
from trainers.models.attention import AttentionGate
from trainers.models.convolutions import SeparableConvolution, build_convolution, initialise
from trainers.models.deeplab import DeepLab
from trainers.models.pspnet import PyramidPooling
from trainers.models.resunet import ResUNet
from trainers.models.unet import UNet, double_convolution


def params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(config: ModelConfig, num_classes: int = 4) -> nn.Module:
    with torch.device("meta"):
        return build_model(config, num_classes)


# UNet and ResUNet


def test_unet_scales_with_base_channels() -> None:
    model = on_meta(ModelConfig(base_channels=6), num_classes=2)
    widths = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [6, 6, 12, 12, 24, 24, 48, 48, 96, 96, 48, 48, 24, 24, 12, 12, 6, 6, 2]


@pytest.mark.parametrize(
    "config", [ModelConfig(size="medium", base_channels=4), ModelConfig(architecture="resunet", base_channels=4)]
)
def test_what_is_cut_off_to_fit_the_stride_is_not_seen_far_away(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build_model(config, num_classes=3).eval()
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        whole, cut = model(image), model(image[..., :123, :125])
    assert torch.allclose(whole[..., :32, :32], cut[..., :32, :32], atol=1e-5)  # beyond the reach of the far edges
    assert not torch.allclose(whole[..., :123, :125], cut, atol=1e-5)


def test_resunet_goes_down_by_strides_and_activates_before_it_convolves() -> None:
    model = on_meta(ModelConfig(architecture="resunet", base_channels=4))
    assert isinstance(model, ResUNet)
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    x = torch.empty(2, 3, 64, 64, device="meta")
    shapes = []
    for unit in model.encoder:
        x = unit(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 64, 64), (8, 32, 32), (16, 16, 16), (32, 8, 8)]
    kinds = [[type(layer).__name__ for layer in unit.residual] for unit in (*model.encoder, *model.decoder)]
    activated = ["BatchNorm2d", "ReLU", "Conv2d"]
    assert kinds == [["Conv2d", *activated], *[activated + activated] * 6]


# Attention gates


def test_attention_scales_each_pixel_of_the_skip_connection_by_a_share() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(skip_channels=6, gate_channels=10)
    skip, signal = torch.randn(2, 6, 16, 24), torch.randn(2, 10, 8, 12)
    shares = gate.coefficients(skip, signal)
    assert shares.shape == (2, 1, 16, 24)
    assert shares.min() > 0
    assert shares.max() < 1
    assert shares.std() > 1e-2
    assert torch.equal(gate(skip, signal), skip * shares)
    assert not torch.allclose(gate.coefficients(skip, -signal), shares, atol=1e-2)


@pytest.mark.parametrize(("size", "gates"), [("original", 3), ("medium", 2), ("small", 1)])
def test_unet_with_open_gates_is_unet_without(size: str, gates: int) -> None:
    torch.manual_seed(0)
    plain = build_model(ModelConfig(size=size, base_channels=4), num_classes=3).eval()
    gated = build_model(ModelConfig(size=size, base_channels=4, attention=True), num_classes=3).eval()
    assert isinstance(gated, UNet)
    assert len(gated.gates) == gates
    gated.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(gated(images), plain(images), atol=1e-3)
        for gate in gated.gates:
            assert isinstance(gate, AttentionGate)
            assert gate.score.bias is not None
            gate.score.bias.fill_(1e4)
        assert torch.equal(gated(images), plain(images))


# Kinds of convolution


@pytest.mark.parametrize("dilation", [1, 3])
def test_separable_convolution_is_a_convolution_whose_weights_factor(dilation: int) -> None:
    torch.manual_seed(0)
    separable = build_convolution("separable", 5, 7, dilation=dilation, bias=True)
    standard = build_convolution("standard", 5, 7, dilation=dilation, bias=True)
    assert isinstance(separable, SeparableConvolution)
    assert isinstance(standard, nn.Conv2d)
    depthwise, pointwise = separable
    assert isinstance(depthwise, nn.Conv2d)
    assert isinstance(pointwise, nn.Conv2d)
    weight = pointwise.weight * depthwise.weight[:, 0][None]
    standard.load_state_dict({"weight": weight, "bias": pointwise.bias})
    images = torch.randn(2, 5, 12, 13)
    assert torch.allclose(separable(images), standard(images), atol=1e-5)


def test_initial_weights_keep_the_variance() -> None:
    torch.manual_seed(0)
    convolution = build_convolution("separable", 256, 256, bias=True)
    initialise(convolution)
    with torch.inference_mode():
        x = torch.randn(1, 256, 32, 32)
        assert convolution(x.relu()).square().mean().item() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("size", UNET_SIZES)
def test_kinds_of_convolution_order_by_parameters(size: str) -> None:
    counts = {
        kind: params(on_meta(ModelConfig(size=size, convolution=kind)))
        for kind in ("separable", "inverted_bottleneck", "standard")
    }
    assert list(counts.values()) == sorted(counts.values())
    assert counts["separable"] < 0.25 * counts["standard"]


@pytest.mark.parametrize(
    ("in_channels", "out_channels"), [(64, 128), (128, 512), (512, 1024), (128, 64), (1024, 512), (3, 64)]
)
def test_no_stage_of_inverted_bottlenecks_is_larger_than_the_standard_one(in_channels: int, out_channels: int) -> None:
    with torch.device("meta"):
        stages = [
            double_convolution(kind, in_channels, out_channels, batch_norm=False)
            for kind in ("inverted_bottleneck", "standard")
        ]
    assert params(stages[0]) < params(stages[1])


def test_inverted_bottlenecks_expand_inside_and_end_without_activation() -> None:
    stage = double_convolution("inverted_bottleneck", 8, 12, batch_norm=True)
    first, second = stage
    assert isinstance(first, InvertedResidual)
    assert isinstance(second, InvertedResidual)
    assert (first.use_res_connect, second.use_res_connect) == (False, True)
    shapes = [
        (module.in_channels, module.out_channels, module.kernel_size[0], module.groups)
        for module in stage.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert shapes == [(8, 24, 1, 1), (24, 24, 3, 24), (24, 12, 1, 1), (12, 36, 1, 1), (36, 36, 3, 36), (36, 12, 1, 1)]
    x = torch.randn(2, 8, 9, 9)
    assert stage(x).shape == (2, 12, 9, 9)
    assert first(x).min() < 0


# DeepLab


def test_aspp_has_one_branch_per_rate() -> None:
    model = on_meta(ModelConfig(architecture="deeplab", aspp_rates=[2, 5]))
    assert isinstance(model, DeepLab)
    dilations = [module.dilation[0] for module in model.context.modules() if isinstance(module, nn.Conv2d)]
    assert dilations == [1, 2, 5, 1, 1]


def test_separable_deeplab_has_no_other_3x3_convolution_behind_the_backbone() -> None:
    config = ModelConfig(architecture="deeplab", aspp_rates=[2, 5], separable=True, skip=True)
    model = on_meta(config)
    assert isinstance(model, DeepLab)
    behind = [
        (module.in_channels, module.groups, module.dilation[0])
        for part in (model.context, model.head, model.skip)
        if part is not None
        for module in part.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert behind == [(512, 512, 2), (512, 512, 5), (304, 304, 1)]
    standard = on_meta(ModelConfig(architecture="deeplab", aspp_rates=[2, 5], skip=True))
    assert params(model) < 0.85 * params(standard)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_skip_joins_features_of_stride_4(output_stride: int) -> None:
    model = on_meta(ModelConfig(architecture="deeplab", output_stride=output_stride, skip=True, decoder_channels=20))
    assert isinstance(model, DeepLab)
    joined: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    model(torch.empty(2, 3, 64, 96, device="meta"))
    assert joined[0].shape == (2, 48 + 20, 16, 24)


def test_skip_brings_details_that_the_context_has_lost() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="deeplab", backbone="mobilenet_v3_small", output_stride=32, skip=True, decoder_channels=8
    )
    model = build_model(config, num_classes=2).eval()
    assert isinstance(model, DeepLab)
    model.context.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    images = torch.zeros(2, 3, 64, 64)
    images[1, :, 32:, :] = 1
    with torch.inference_mode():
        logits = model(images)
    assert not torch.allclose(logits[0], logits[1])


# PSPNet


def test_pyramid_joins_features_and_their_means() -> None:
    torch.manual_seed(0)
    pyramid = PyramidPooling(16).eval()
    features = torch.randn(2, 16, 12, 18)
    with torch.inference_mode():
        joined = pyramid(features)
        mean = features.mean(dim=(2, 3), keepdim=True)
        coarsest = pyramid.branches[0](mean)
    assert pyramid.out_channels == joined.shape[1] == 32
    assert torch.equal(joined[:, :16], features)
    assert torch.allclose(joined[:, 16:20], coarsest.expand(-1, -1, 12, 18), atol=1e-6)
    bins = [module.output_size for module in pyramid.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    assert bins == [1, 2, 3, 6]


def test_pyramid_takes_maps_smaller_than_its_finest_branch() -> None:
    assert PyramidPooling(8)(torch.randn(2, 8, 1, 2)).shape == (2, 16, 1, 2)
