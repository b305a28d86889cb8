"""Initial weights: found, checked before anything costs time, and loaded, or refused by name."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from trainers.choices import BACKBONES
from trainers.config import ModelConfig
from trainers.models import build_model, check_model
from trainers.models.backbones import LAYOUTS, headless
from trainers.models.deeplab import DeepLab
from trainers.models.fcn import FCN
from trainers.settings import ConfigError


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
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "vgg11_bn": "vgg11_bn-6002323d.pth",
    "vgg13_bn": "vgg13_bn-abd245e5.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "vgg16_block4": "vgg16-397923af.pth",
    "mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth",
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_imagenet_without_a_network_says_which_file_goes_where(backbone: str, hub: Path) -> None:
    with pytest.raises(ConfigError) as error:
        check_model(deeplab(backbone))
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
            check_model(deeplab())
    assert socket.getdefaulttimeout() is None


def test_imagenet_weights_in_the_hub_folder_are_used(hub: Path) -> None:
    torch.manual_seed(7)
    trained = torchvision.models.mobilenet_v3_small(weights=None)
    torch.save(trained.state_dict(), hub / IMAGENET_FILES["mobilenet_v3_small"])
    check_model(deeplab())
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
    check_model(config)
    built = build_model(config, num_classes=5)
    assert isinstance(built, DeepLab)
    for one, other in zip(built.encoder.state_dict().values(), state.values(), strict=True):
        assert torch.equal(one, other)


def test_vgg16_of_fcn_takes_blocks_1_to_4_of_imagenet_weights(hub: Path) -> None:
    torch.manual_seed(7)
    with torch.device("meta"):
        trained = torchvision.models.vgg16(weights=None)
    trained.classifier = nn.Sequential(nn.Linear(3, 2))  # the names of the large head, not its size
    nn.utils.vector_to_parameters(torch.randn(14_714_696), trained.to_empty(device="cpu").parameters())
    torch.save(trained.state_dict(), hub / IMAGENET_FILES["vgg16_block4"])
    config = ModelConfig(architecture="fcn", backbone="vgg16_block4", weights="imagenet", decoder_channels=8)
    check_model(config)
    model = build_model(config, num_classes=5)
    assert isinstance(model, FCN)
    loaded, expected = model.encoder.state_dict(), trained.features[:24].state_dict()
    assert len(loaded) == len(expected) == 20
    for one, other in zip(loaded.values(), expected.values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("other", ["vgg16_bn", "vgg13_bn"])
def test_vgg16_with_batch_norm_is_not_that_of_fcn(other: str, tmp_path: Path) -> None:
    torch.save(headless(other).to_empty(device="cpu").state_dict(), tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"does not fit torchvision's vgg16\."):
        check_model(ModelConfig(architecture="fcn", backbone="vgg16_block4", weights=str(tmp_path / "other.pt")))


@pytest.mark.parametrize("architecture", ["fcn", "pspnet", "deeplab"])
def test_weights_are_checked_for_every_architecture_that_reads_them(architecture: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'nowhere\.pt'"):
        check_model(ModelConfig(architecture=architecture, weights="nowhere.pt"))


def test_weights_of_another_backbone_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(ConfigError, match=r"missing \(features\.0\.0\.weight, .*unknown \(conv1\.weight"):
        check_model(deeplab(weights=str(tmp_path / "resnet.pt")))


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    torch.save(state | {"features.0.0.weight": torch.zeros(16, 4, 3, 3)}, tmp_path / "four.pt")
    with pytest.raises(ConfigError, match=r"1 of another shape \(features\.0\.0\.weight\)"):
        check_model(deeplab(weights=str(tmp_path / "four.pt")))


def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ConfigError, match="not a state dict"):
        check_model(deeplab(weights=str(tmp_path / "text.pt")))


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(ConfigError, match="names with tensors"):
        check_model(deeplab(weights=str(tmp_path / "epoch.pt")))


def test_nothing_is_checked_where_no_weights_are_read(hub: Path) -> None:
    check_model(deeplab(weights="none"))
    check_model(ModelConfig(architecture="unet", weights="imagenet"))
    check_model(ModelConfig(architecture="resunet", weights="imagenet"))
    assert list(hub.iterdir()) == []
