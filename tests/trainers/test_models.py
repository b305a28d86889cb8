"""The models: published parameter counts, shapes, dilation, weights, and numbers that a refactor must not change.

After an intended change of a model, write its new golden numbers with
``python tests/trainers/test_models.py``, and say in the commit why they changed.
"""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from trainers.choices import BACKBONES, OUTPUT_STRIDES, UNET_SIZES
from trainers.config import ModelConfig
from trainers.models import build_model, check_weights
from trainers.models.backbones import LAYOUTS, build_encoder, dilate
from trainers.models.deeplab import DeepLab
from trainers.settings import ConfigError

GOLDEN_FILE = Path(__file__).with_name("golden_models.json")
VARIATIONS = {f"unet-{size}": ModelConfig(size=size, base_channels=8) for size in UNET_SIZES} | {
    f"deeplab-{backbone}-{'aspp' if aspp else 'plain'}": ModelConfig(
        architecture="deeplab", backbone=backbone, aspp=aspp, decoder_channels=32
    )
    for backbone in BACKBONES
    for aspp in (True, False)
}


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


@pytest.mark.parametrize(("size", "params"), [("original", 31_040_981), ("medium", 7_702_485), ("small", 4_062_933)])
def test_unet_has_the_published_number_of_parameters(size: str, params: int) -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(size=size), num_classes=21)
        logits = model(torch.empty(1, 3, 128, 128))
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == params
    assert logits.shape == (1, 21, 128, 128)


def test_unet_scales_with_base_channels() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(base_channels=6), num_classes=2)
    widths = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [6, 6, 12, 12, 24, 24, 48, 48, 96, 96, 48, 48, 24, 24, 12, 12, 6, 6, 2]


@pytest.mark.parametrize("name", VARIATIONS)
def test_logits_have_the_size_of_the_images(name: str) -> None:
    with torch.device("meta"):
        model = build_model(VARIATIONS[name], num_classes=5).eval()
        for size in ((32, 32), (33, 47), (50, 64), (61, 95)):
            assert model(torch.empty(2, 3, *size)).shape == (2, 5, *size)


def test_unet_sees_the_same_in_an_image_whatever_is_cut_off_to_fit_the_stride() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(size="medium", base_channels=4), num_classes=3).eval()
    image = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        whole, cut = model(image), model(image[..., :91, :93])
    assert torch.equal(whole[..., :32, :32], cut[..., :32, :32])  # beyond the reach of the far edges


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
def test_every_parameter_is_trained_and_no_other_seed_gives_the_same_weights(name: str) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = build_model(VARIATIONS[name], num_classes=5).train()
        states.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_encoder_strides_and_channels(backbone: str, output_stride: int) -> None:
    with torch.device("meta"):
        encoder = build_encoder(backbone, output_stride, "none").eval()
        features = encoder(torch.empty(1, 3, 128, 64))
    assert tuple(feature.shape[1] for feature in features) == encoder.out_channels
    strides = [min(stride, output_stride) for stride in (2, 4, 8, 16, 32)]
    assert [tuple(feature.shape[2:]) for feature in features] == [(128 // stride, 64 // stride) for stride in strides]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_dilation_computes_the_same_features_on_a_denser_grid(backbone: str, output_stride: int) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(backbone, 32, "none").double().eval()
    for module in encoder.modules():
        if isinstance(module, torchvision.ops.SqueezeExcitation):
            module.avgpool = nn.Identity()  # the mean over a denser grid is another mean
    images = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    with torch.inference_mode():
        coarse = encoder(images)[-1]
        dilate(encoder, output_stride)
        dense = encoder(images)[-1]
    step = 32 // output_stride
    assert dense.shape[-1] == step * coarse.shape[-1]
    assert (dense[..., ::step, ::step] - coarse).abs().max() < 1e-9 * coarse.abs().max()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_encoder_is_torchvisions_feature_extractor(backbone: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(backbone, weights=None).eval()
    encoder = build_encoder(backbone, 32, "none").eval()
    encoder.load_state_dict(dict(zip(encoder.state_dict(), model.state_dict().values(), strict=False)))
    captured: list[torch.Tensor] = []
    model.avgpool.register_forward_hook(lambda _module, inputs, _output: captured.append(inputs[0]))
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        model(images)
        assert torch.equal(encoder(images)[-1], captured[0])


def test_aspp_has_one_branch_per_rate() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(architecture="deeplab", aspp_rates=[2, 5]), num_classes=4)
    assert isinstance(model, DeepLab)
    dilations = [module.dilation[0] for module in model.context.modules() if isinstance(module, nn.Conv2d)]
    assert dilations == [1, 2, 5, 1, 1]


def test_batch_norm_of_every_backbone_follows_within_a_short_trial() -> None:
    for backbone in BACKBONES:
        norms = [
            module for module in build_encoder(backbone, 16, "none").modules() if isinstance(module, nn.BatchNorm2d)
        ]
        assert {norm.momentum for norm in norms} == {0.1}


# Initial weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub folder, and a network that refuses every connection at once."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def deeplab(backbone: str = "mobilenet_v3_small", weights: str = "imagenet") -> ModelConfig:
    return ModelConfig(architecture="deeplab", backbone=backbone, weights=weights)


IMAGENET_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "vgg11_bn": "vgg11_bn-6002323d.pth",
    "mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_imagenet_without_a_network_says_which_file_goes_where(backbone: str, hub: Path) -> None:
    with pytest.raises(ConfigError) as error:
        check_weights(deeplab(backbone))
    assert f"needs {IMAGENET_FILES[backbone]}" in str(error.value)
    assert str(hub) in str(error.value)
    assert list(hub.iterdir()) == []


def test_a_server_that_never_answers_does_not_hang_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("trainers.models.backbones.DOWNLOAD_TIMEOUT_S", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{IMAGENET_FILES['mobilenet_v3_small']}"
        weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=url))
        monkeypatch.setattr("torchvision.models.get_model_weights", lambda _: weights)
        with pytest.raises(ConfigError, match="timed out"):
            check_weights(deeplab())
    assert socket.getdefaulttimeout() is None


def test_imagenet_weights_in_the_hub_folder_are_used(hub: Path) -> None:
    torch.manual_seed(7)
    trained = torchvision.models.mobilenet_v3_small(weights=None)
    torch.save(trained.state_dict(), hub / IMAGENET_FILES["mobilenet_v3_small"])
    check_weights(deeplab())
    model = build_model(deeplab(), num_classes=5)
    assert isinstance(model, DeepLab)
    loaded, expected = model.encoder.state_dict(), trained.features.state_dict()
    assert len(loaded) == len(expected)
    for one, other in zip(loaded.values(), expected.values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_weights_file_without_head_is_used(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = torchvision.models.get_model(backbone, weights=None)
    heads = tuple(f"{name}." for name in LAYOUTS[backbone].head)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(heads)}
    torch.save(state, tmp_path / "mine.pt")
    config = deeplab(backbone, str(tmp_path / "mine.pt"))
    check_weights(config)
    built = build_model(config, num_classes=5)
    assert isinstance(built, DeepLab)
    for one, other in zip(built.encoder.state_dict().values(), state.values(), strict=True):
        assert torch.equal(one, other)


def test_missing_weights_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'nowhere\.pt'"):
        check_weights(deeplab(weights="nowhere.pt"))


def test_weights_of_another_backbone_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(ConfigError, match=r"missing \(features\.0\.0\.weight, .*unknown \(conv1\.weight"):
        check_weights(deeplab(weights=str(tmp_path / "resnet.pt")))


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    torch.save(state | {"features.0.0.weight": torch.zeros(16, 4, 3, 3)}, tmp_path / "four.pt")
    with pytest.raises(ConfigError, match=r"1 of another shape \(features\.0\.0\.weight\)"):
        check_weights(deeplab(weights=str(tmp_path / "four.pt")))


def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ConfigError, match="not a state dict"):
        check_weights(deeplab(weights=str(tmp_path / "text.pt")))


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(ConfigError, match="names with tensors"):
        check_weights(deeplab(weights=str(tmp_path / "epoch.pt")))


def test_nothing_is_checked_where_no_weights_are_read(hub: Path) -> None:
    check_weights(deeplab(weights="none"))
    check_weights(ModelConfig(architecture="unet", weights="imagenet"))
    assert list(hub.iterdir()) == []


if __name__ == "__main__":
    numbers = {name: golden_numbers(config) for name, config in VARIATIONS.items()}
    GOLDEN_FILE.write_text(json.dumps(numbers, indent=1) + "\n")
