"""The bridge to segmentation_models.pytorch: what is there works at every size, what is not is said before training."""

from __future__ import annotations

import copy
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.choices import SMP_DECODERS, SMP_PREFIX
from trainers.config import ModelConfig
from trainers.models import build_model, check_model
from trainers.models.resizing import pad_to_multiple
from trainers.models.smp import PaddedModel
from trainers.profiling import Serving, count_architecture, fresh_model, profile_architecture
from trainers.settings import ConfigError

CLASSES = 4
TINY, TINY_VIT = "tu-test_resnet", "tu-test_vit"
"""Encoders made for tests, of some 0.4 million weights."""
ABSENT = "the extra smp is not installed"


@pytest.fixture
def smp() -> Any:
    return pytest.importorskip("segmentation_models_pytorch", reason=ABSENT)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_config(decoder: str, backbone: str = "resnet18", weights: str = "none") -> ModelConfig:
    return ModelConfig(architecture=SMP_PREFIX + decoder, backbone=backbone, weights=weights)


def smallest_config(decoder: str) -> ModelConfig:
    return model_config(decoder, TINY_VIT if decoder == "DPT" else TINY)


def seeded(config: ModelConfig, seed: int = 0) -> PaddedModel:
    torch.manual_seed(seed)
    model = build_model(config, CLASSES)
    assert isinstance(model, PaddedModel)
    return model


# Padding


class Recorder(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images[:, :1]


@pytest.mark.parametrize(("side", "wanted"), [(32, 32), (33, 48), (48, 48), (1, 32), (65, 80)])
def test_a_side_is_padded_to_the_next_that_the_network_takes(side: int, wanted: int) -> None:
    assert pad_to_multiple(torch.zeros(1, 3, 64, side), 16, 32).shape == (1, 3, 64, wanted)


def test_images_are_mirrored_at_right_and_bottom_and_logits_cut() -> None:
    network = Recorder()
    image = torch.arange(20 * 29.0).view(1, 1, 20, 29).repeat(1, 3, 1, 1)
    logits = PaddedModel(network, 16, 16)(image)
    assert torch.equal(logits, image[:, :1])
    assert network.seen.shape == (1, 3, 32, 32)
    assert torch.equal(network.seen[..., :20, 29:], image[..., [27, 26, 25]])
    assert torch.equal(network.seen[..., 20:, :29], image[..., list(range(18, 6, -1)), :])


def test_where_too_little_is_there_to_mirror_the_edge_is_repeated() -> None:
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    assert pad_to_multiple(row, 5)[0, 0, 0].tolist() == [1, 2, 3, 2, 1]
    assert pad_to_multiple(row, 7)[0, 0, 0].tolist() == [1, 2, 3, 3, 3, 3, 3]


# Every decoder


def test_the_decoders_are_those_of_the_library(smp: Any) -> None:
    assert set(SMP_DECODERS) == {decoder.__name__ for decoder in smp.MODEL_ARCHITECTURES_MAPPING.values()}


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize("decoder", SMP_DECODERS)
def test_every_decoder_takes_images_of_any_size(decoder: str) -> None:
    config = smallest_config(decoder)
    check_model(config)
    with torch.device("meta"):
        model = fresh_model(config, CLASSES)
        for height, width in ((32, 32), (33, 100)):
            assert model(torch.empty(2, 3, height, width)).shape == (2, CLASSES, height, width)


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize("decoder", SMP_DECODERS)
def test_every_decoder_trains_in_bf16_with_channels_last(decoder: str) -> None:
    model = seeded(smallest_config(decoder)).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 40, 40).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.shape == (2, CLASSES, 40, 40)
    torch.nn.functional.cross_entropy(logits.float(), torch.zeros(2, 40, 40, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.usefixtures("smp")
def test_logits_are_no_probabilities() -> None:
    logits = seeded(model_config("Unet")).eval()(torch.randn(1, 3, 64, 64))
    assert logits.min() < 0
    assert not torch.allclose(logits.sum(1), torch.ones(1, 64, 64), atol=0.1)


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "mit_b0", "timm-mobilenetv3_small_minimal_100"])
def test_weights_depend_on_the_random_state_alone(backbone: str) -> None:
    config = model_config("FPN", backbone)
    first, again, other = (seeded(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.usefixtures("smp")
def test_copies_and_saved_weights_give_the_same_logits(tmp_path: Path) -> None:
    model, images = seeded(model_config("Unet", "mobilenet_v2")).eval(), torch.randn(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = seeded(model_config("Unet", "mobilenet_v2"), seed=1).eval()
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.inference_mode():
        expected = model(images)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        assert torch.equal(loaded(images), expected)


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize("backbone", ["resnet18", "mit_b0"])
def test_profile_counts_and_times_it(backbone: str) -> None:
    config = model_config("FPN", backbone)
    serving, batch = Serving(), (2, 32, 32)
    profile = profile_architecture(config, CLASSES, 64, 64, "cpu", serving=serving, train_batch=batch, budget_s=0.1)
    model = seeded(config)
    assert profile.params == sum(parameter.numel() for parameter in model.parameters())
    assert profile.latency_ms > 0
    assert profile.macs > 1e7
    _, _, padded_macs = count_architecture(config, CLASSES, 33, 33)
    assert padded_macs == profile.macs, "what is padded is computed too"


@pytest.mark.usefixtures("smp")
def test_batch_norm_follows_within_a_short_trial() -> None:
    model = seeded(model_config("Unet", "timm-mobilenetv3_small_minimal_100"))
    assert {module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}


# What cannot be built


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    for use in (check_model, lambda config: build_model(config, CLASSES)):
        with pytest.raises(ConfigError, match=r'pip install "segmentation-search\[smp\]"'):
            use(model_config("Unet"))


def test_other_architectures_do_not_import_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    check_model(ModelConfig(architecture="unet"))


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize(
    ("backbone", "near"),
    [("resnet81", "resnet18"), ("tu-convnext_ato", "tu-convnext_atto"), ("efficientnet_b0", "efficientnet-b0")],
)
def test_an_unknown_encoder_is_refused_with_the_nearest(backbone: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{backbone}'. Did you mean '{near}'"):
        check_model(model_config("Unet", backbone))


REFUSED = {
    ("DPT", "resnet18"): "must start with 'tu-'.*such as tu-vit_small",
    ("DPT", "tu-resnet18"): "dynamic_img_size.*such as tu-vit_small",
    ("DeepLabV3", "vgg11_bn"): "do not support dilated mode",
    ("PAN", "densenet121"): "do not support dilated mode",
    ("UnetPlusPlus", "mit_b0"): "not support encoder_name=mit_b0",
    ("Unet", TINY_VIT): "Unsupported model downsampling pattern",
    ("Unet", "tu-swin_tiny_patch4_window7_224"): r"Input height \(32\) doesn't match model \(224\)",
    ("Unet", "tu-resnet18.no_such_tag"): "Invalid pretrained tag",
    ("Unet", "timm-mobilenetv3_huge_100"): "Unknown model",
}


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize(("decoder", "backbone"), REFUSED)
def test_a_refused_pair_is_said_with_the_librarys_reason(decoder: str, backbone: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[decoder, backbone]) as error:
        check_model(model_config(decoder, backbone))
    assert f"model.architecture=smp.{decoder} cannot be built on model.backbone={backbone}" in str(error.value)


@pytest.mark.slow
def test_every_encoder_of_the_library_can_be_used(smp: Any) -> None:
    for backbone in smp.encoders.get_encoder_names():
        check_model(model_config("FPN", backbone))


# Initial weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smp: Any) -> Path:  # noqa: ARG001
    """An empty cache folder, and a server that refuses every connection."""
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        port = refusing.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *_, **__: f"http://127.0.0.1:{port}/file")
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "hub"


def put(hub: Path, repository: str, revision: str, state: dict[str, Tensor]) -> None:
    """A weights file in the cache folder, as a download would leave it."""
    safetensors = pytest.importorskip("safetensors.torch", reason=ABSENT)
    folder = hub / ("models--" + repository.replace("/", "--"))
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    safetensors.save_file(state, folder / "snapshots" / revision / "model.safetensors")


def encoder_state(model: PaddedModel) -> dict[str, Tensor]:
    return dict(model.network.get_submodule("encoder").state_dict())


def assert_equal_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("decoder", "backbone", "repository"),
    [
        ("Unet", "resnet18", "smp-hub/resnet18.imagenet"),
        ("FPN", "timm-mobilenetv3_small_minimal_100", "timm/tf_mobilenetv3_small_minimal_100.in1k"),
        ("DPT", TINY_VIT, "timm/test_vit.r160_in1k"),
    ],
)
def test_imagenet_without_a_network_says_what_to_fetch(decoder: str, backbone: str, repository: str, hub: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=f"hf download {repository} model.safetensors") as error:
        check_model(model_config(decoder, backbone, "imagenet"))
    assert str(hub) in str(error.value)
    assert time.monotonic() - started < 5


def test_a_server_that_never_answers_does_not_hang_the_search(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.models.smp.DOWNLOAD_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *_, **__: url)
        with pytest.raises(ConfigError, match="timed out"):
            check_model(model_config("Unet", "resnet18", "imagenet"))
    assert not list(hub.glob("**/*.safetensors"))


def test_imagenet_weights_of_the_library_in_the_cache_are_used(hub: Path, smp: Any) -> None:
    torch.manual_seed(7)
    trained = smp.encoders.get_encoder("mobilenet_v2").state_dict()
    source = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]
    put(hub, source["repo_id"], source["revision"], trained)
    config = model_config("Unet", "mobilenet_v2", "imagenet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_model(config)
    assert_equal_states(encoder_state(seeded(config)), dict(trained))


def test_imagenet_weights_of_timm_in_the_cache_are_used(hub: Path) -> None:
    timm = pytest.importorskip("timm", reason=ABSENT)
    torch.manual_seed(7)
    trained = timm.create_model("tf_mobilenetv3_small_minimal_100", pretrained=False).state_dict()
    put(hub, "timm/tf_mobilenetv3_small_minimal_100.in1k", "0" * 40, trained)
    config = model_config("Unet", "timm-mobilenetv3_small_minimal_100", "imagenet")
    check_model(config)
    loaded = {name.removeprefix("model."): value for name, value in encoder_state(seeded(config)).items()}
    assert_equal_states(loaded, {name: trained[name] for name in loaded})


def test_imagenet_weights_that_are_not_provided_are_refused(hub: Path) -> None:
    with pytest.raises(ConfigError, match="has none for timm-efficientnet-l2 beside those called noisy-student"):
        check_model(model_config("Unet", "timm-efficientnet-l2", "imagenet"))
    with pytest.raises(ConfigError, match="timm has none for tu-legacy_seresnet18"):
        check_model(model_config("Unet", "tu-legacy_seresnet18", "imagenet"))
    assert not hub.exists()


@pytest.mark.usefixtures("smp")
@pytest.mark.parametrize("backbone", ["resnet18", "mit_b0", "tu-mobilenetv3_small_050"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_with_the_encoders_weights_is_used(backbone: str, suffix: str, tmp_path: Path) -> None:
    state = encoder_state(seeded(model_config("FPN", backbone), seed=7))
    path = tmp_path / f"mine.{suffix}"
    save = torch.save if suffix == "pt" else pytest.importorskip("safetensors.torch", reason=ABSENT).save_file
    save(state, path)
    config = model_config("FPN", backbone, str(path))
    check_model(config)
    assert_equal_states(encoder_state(seeded(config)), state)


@pytest.mark.usefixtures("smp")
def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"

    def error() -> str:
        with pytest.raises(ConfigError) as caught:
            check_model(model_config("Unet", weights=str(path)))
        return str(caught.value)

    assert "there is no file" in error()
    path.write_text("no weights")
    assert "holds no state dict" in error()
    torch.save({"epoch": 3}, path)
    assert "names with tensors" in error()
    torch.save([1, 2], path)
    assert "holds no state dict" in error()
    torch.save({"weight": torch.zeros(3)}, path)
    assert "does not fit resnet18" in error()
    assert "Missing key" in error()
    assert len(error()) < 700
