"""A bridge to segmentation_models.pytorch: its decoders on its encoders, among them most of timm, as architectures.

The library is an optional extra and imported only when such an architecture is used.
"""

from __future__ import annotations

import difflib
import pickle
import textwrap
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers.choices import SMP_PREFIX
from trainers.config import ModelConfig
from trainers.models.backbones import BATCH_NORM_MOMENTUM, DOWNLOAD_TIMEOUT_S
from trainers.models.resizing import pad_to_multiple
from trainers.settings import ConfigError

MIN_SIDE = {"PAN": 128}
"""Smallest side in pixels that a decoder takes, where it is more than a stride: PAN halves the map of stride 16 three
times."""
STRIDES = {"DPT": 2}
"""How many strides of the encoder a decoder's image sides are divisible by, where it is more than one: DPT halves the
encoder's map and adds it, doubled, to the map itself."""
TIMM_PREFIX = "tu-"
"""Begins the names of encoders that the library builds from timm's models."""
REFUSALS = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What the libraries raise where an encoder does not go with a decoder, or a file with an encoder."""
LONGEST_REASON = 400
"""Characters of an error of the libraries that ours quote: some list hundreds of weights."""


class PaddedModel(nn.Module):
    """A network that takes certain image sizes only, for images of any size.

    Images are padded by :func:`pad_to_multiple` up to the next size that the network takes, and the logits cut back.

    Args:
        network: images (n, 3, h, w) to logits (n, classes, h, w).
        multiple: what the network's image sides must be divisible by, in pixels.
        min_side: and not smaller than, in pixels.
    """

    def __init__(self, network: nn.Module, multiple: int, min_side: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple
        self.min_side = min_side

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w)."""
        height, width = images.shape[-2:]
        logits: Tensor = self.network(pad_to_multiple(images, self.multiple, self.min_side))
        return logits[..., :height, :width]


def build_smp(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the library's decoder ``config.architecture`` on its encoder ``config.backbone``.

    ``imagenet`` weights of an encoder of timm are those that the tag in its name says, or timm's choice.

    Raises:
        ConfigError: as :func:`check_smp`.
    """
    options: dict[str, Any] = {}
    name = timm_name(weightless(config).encoder) if config.weights == "imagenet" else None
    if name is not None:
        # The hub's files are timm's own format, also where ``custom_load`` says that the original release is not.
        source = {"file": str(timm_file(name, config.backbone)), "custom_load": False}
        options = {"encoder_weights": True, "pretrained_cfg_overlay": source}
    network = build_network(config, num_classes, **options)
    if config.weights != "none" and name is None:
        load_encoder(network.encoder, config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    return padded(network, config)


def check_smp(config: ModelConfig) -> None:
    """Make sure that :func:`build_smp` will work, without memory for the weights.

    Raises:
        ConfigError: the library is not installed, has no such encoder, or does not build this decoder on it for
            images of any size; or the initial weights cannot be had or do not fit.
    """
    network = weightless(config)
    try:
        padded(network, config).eval()(torch.empty(1, 3, 32, 65, device="meta"))
    except REFUSALS as error:
        raise refusal(config, error) from error
    if config.weights == "imagenet" and (name := timm_name(network.encoder)) is not None:
        timm_file(name, config.backbone)
    elif config.weights != "none":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")  # that is the purpose here
            load_encoder(network.encoder, config)


def weightless(config: ModelConfig) -> Any:
    """The library's model on the meta device."""
    with torch.device("meta"):
        return build_network(config, num_classes=2)


def padded(network: Any, config: ModelConfig) -> PaddedModel:
    """The library's model for images of any size."""
    decoder = config.architecture.removeprefix(SMP_PREFIX)
    multiple = STRIDES.get(decoder, 1) * network.encoder.output_stride
    return PaddedModel(network, multiple, MIN_SIDE.get(decoder, 1))


def library(name: str) -> Any:
    """A module of the optional extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"model.architecture={SMP_PREFIX}* needs segmentation_models.pytorch, which cannot be imported ({error}). "
            f'Install it with: pip install "segmentation-search[smp]"'
        ) from error


def build_network(config: ModelConfig, num_classes: int, **options: Any) -> Any:
    """The library's model; ``options`` go to its constructor. Also on the meta device.

    Raises:
        ConfigError: there is no such encoder, or the decoder does not take it.
    """
    smp = library("segmentation_models_pytorch")
    check_encoder(config.backbone, smp)
    decoder = config.architecture.removeprefix(SMP_PREFIX)
    options = {"encoder_weights": None} | options
    if decoder == "DPT":
        options["dynamic_img_size"] = True  # or its vision transformers take their training's image size only

    def build() -> Any:
        return getattr(smp, decoder)(config.backbone, in_channels=3, classes=num_classes, **options)

    try:
        try:
            return build()
        except RuntimeError:
            if torch.get_default_device().type != "meta":
                raise
        with torch.device("cpu"):  # Some encoders compute with numbers on the way, which meta tensors do not have.
            return build().to("meta")
    except REFUSALS as error:
        raise refusal(config, error) from error


def refusal(config: ModelConfig, error: Exception) -> ConfigError:
    """The error for an encoder that the decoder cannot be built on, with the library's reason."""
    hint = " It takes vision transformers of timm, such as tu-vit_small_patch16_224."
    return ConfigError(
        f"model.architecture={config.architecture} cannot be built on model.backbone={config.backbone}: "
        f"{reason(error)}.{hint if config.architecture == SMP_PREFIX + 'DPT' else ''}"
    )


def reason(error: Exception) -> str:
    """What a library says in an error, on one line."""
    return textwrap.shorten(str(error) or type(error).__name__, LONGEST_REASON).rstrip(".")


def check_encoder(backbone: str, smp: Any) -> None:
    """Raise ConfigError with the nearest name unless the library has this encoder."""
    timm = library("timm")
    # Names of former versions, which the library translates, are not listed anywhere.
    if smp.encoders.is_equivalent_to_timm_universal(backbone):
        return
    if backbone.startswith(TIMM_PREFIX) and timm.is_model(backbone.removeprefix(TIMM_PREFIX)):
        return
    names = smp.encoders.get_encoder_names()
    if backbone not in names:
        near = difflib.get_close_matches(backbone, [*names, *(TIMM_PREFIX + name for name in timm.list_models())], n=1)
        raise ConfigError(
            f"model.backbone must be an encoder of segmentation_models.pytorch; got {backbone!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )


def timm_name(encoder: nn.Module) -> str | None:
    """The name of timm's model that is the encoder; None for an encoder of the library's own."""
    encoders = library("segmentation_models_pytorch").encoders
    timms = (encoders.TimmUniversalEncoder, encoders.TimmViTEncoder)
    return str(encoder.name) if isinstance(encoder, timms) else None


def load_encoder(encoder: nn.Module, config: ModelConfig) -> None:
    """Give an encoder its initial weights: the library's, or those of a file with the library's names.

    Raises:
        ConfigError: they cannot be had, or belong to another encoder.
    """
    path = library_file(config.backbone) if config.weights == "imagenet" else Path(config.weights)
    state = read_state(path)
    try:
        encoder.load_state_dict(state)
    except REFUSALS as error:
        raise ConfigError(f"model.weights: {path} does not fit {config.backbone}. {reason(error)}.") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict that torch or safetensors saved.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ConfigError(f"model.weights must be none, imagenet or a file; there is no file {str(path)!r}.")
    broken = library("safetensors").SafetensorError
    try:
        state: dict[str, Tensor] = library("timm").models.load_state_dict(str(path), use_ema=False)
    except (OSError, EOFError, pickle.UnpicklingError, broken, *REFUSALS) as error:
        raise ConfigError(f"model.weights: {path} holds no state dict ({reason(error)}).") from error
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"model.weights: {path} holds no state dict, that is names with tensors.")
    return state


def library_file(backbone: str) -> Path:
    """The file of an encoder's ImageNet weights that the library provides.

    Raises:
        ConfigError: it provides none, or the file cannot be had.
    """
    provided = library("segmentation_models_pytorch").encoders.encoders[backbone]["pretrained_settings"]
    if "imagenet" not in provided:
        others = f" beside those called {', '.join(provided)}" if provided else ""
        raise ConfigError(f"model.weights=imagenet: segmentation_models.pytorch has none for {backbone}{others}.")
    return hub_file(backbone, provided["imagenet"]["repo_id"], provided["imagenet"]["revision"])


def timm_file(name: str, backbone: str) -> Path:
    """The file of the trained weights of timm's model ``name``, which is the encoder ``backbone``.

    Raises:
        ConfigError: there are none, or the file cannot be had.
    """
    trained = library("timm").models.get_pretrained_cfg(name)
    if trained is None or not trained.hf_hub_id:
        raise ConfigError(f"model.weights=imagenet: timm has none for {backbone} that can be downloaded.")
    return hub_file(backbone, trained.hf_hub_id, None)


def hub_file(backbone: str, repository: str, revision: str | None) -> Path:
    """The weights of a repository of the Hugging Face Hub, from the hub's cache folder or else downloaded into it.

    Raises:
        ConfigError: they are not there and cannot be downloaded.
    """
    hub = library("huggingface_hub")
    file = "model.safetensors"
    try:
        return Path(hub.hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        pass
    try:
        # Asked once, for the download itself tries for minutes to reach a server that is not there.
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, file, revision=revision), timeout=DOWNLOAD_TIMEOUT_S)
        return Path(hub.hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # The errors of connections belong to an HTTP library that changes with versions.
        at = f" --revision {revision}" if revision else ""
        raise ConfigError(
            f"model.weights=imagenet needs {file} of {repository} for {backbone}, which could not be downloaded "
            f"({reason(error)}). Run `hf download {repository} {file}{at}` where there is a network and copy the "
            f"result into {hub.constants.HF_HUB_CACHE}, or set model.weights=none."
        ) from error
