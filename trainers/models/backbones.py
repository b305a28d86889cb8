"""Torchvision's classifiers as feature extractors of a chosen output stride, with or without trained weights."""

from __future__ import annotations

import http.client
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from trainers.settings import ConfigError

BATCH_NORM_MOMENTUM = 0.1
"""Torch's own default for all backbones. Torchvision gives MobileNetV3 0.01, made for runs of 10^5 steps: its running
statistics lag hundreds of steps behind, and the validation of a short trial sees a network that was never trained."""
DOWNLOAD_TIMEOUT_S = 10.0
"""Longest silence of a server before a download of weights is given up."""


@dataclass(frozen=True)
class Layout:
    """How a torchvision classifier divides into stages whose outputs have strides 2, 4, 8, 16 and (but for one) 32."""

    features: str | None
    """Attribute that holds the layers in order; None: the model's own children."""
    head: tuple[str, ...]
    """Submodules behind the features, nearest first, which segmentation has no use for."""
    ends: tuple[int, ...]
    """Index of the layer after the last of each stage."""
    out_channels: tuple[int, ...]
    """Channels of each stage's output."""
    model: str | None = None
    """Torchvision's name of the classifier, where ours is another."""


CLASSIFIER = ("avgpool", "classifier")
VGG_CHANNELS = (128, 256, 512, 512, 512)
RESNET_ENDS = (3, 5, 6, 7, 8)
LAYOUTS: dict[str, Layout] = {
    "mobilenet_v3_large": Layout("features", CLASSIFIER, (2, 4, 7, 13, 17), (16, 24, 40, 112, 960)),
    "mobilenet_v3_small": Layout("features", CLASSIFIER, (1, 2, 4, 9, 13), (16, 16, 24, 48, 576)),
    "resnet18": Layout(None, ("avgpool", "fc"), RESNET_ENDS, (64, 64, 128, 256, 512)),
    "resnet34": Layout(None, ("avgpool", "fc"), RESNET_ENDS, (64, 64, 128, 256, 512)),
    "resnet50": Layout(None, ("avgpool", "fc"), RESNET_ENDS, (64, 256, 512, 1024, 2048)),
    "vgg11_bn": Layout("features", CLASSIFIER, (7, 14, 21, 28, 29), VGG_CHANNELS),
    "vgg13_bn": Layout("features", CLASSIFIER, (13, 20, 27, 34, 35), VGG_CHANNELS),
    "vgg16_bn": Layout("features", CLASSIFIER, (13, 23, 33, 43, 44), VGG_CHANNELS),
    # The backbone of the published FCN: blocks 1 to 4 with their pooling, so that the last stride is 16.
    "vgg16_block4": Layout(
        "features",
        (*(f"features.{layer}" for layer in range(24, 31)), *CLASSIFIER),
        (5, 10, 17, 24),
        (64, 128, 256, 512),
        model="vgg16",
    ),
}
"""The backbones that ``model.backbone`` may name."""


class Encoder(nn.Module):
    """A backbone cut into stages.

    Attributes:
        out_channels: channels of each feature map that :meth:`forward` returns, the coarsest last. A decoder needs
            to know nothing else about a backbone.
    """

    def __init__(self, stages: Sequence[nn.Module], out_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (n, 3, h, w) to one feature map per stage, at strides 2, 4, 8, 16, 32 up to the output stride."""
        features: list[Tensor] = []
        x = images
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def build_encoder(backbone: str, output_stride: int, weights: str) -> Encoder:
    """Build a backbone whose last feature map is ``output_stride`` times smaller than the image.

    Args:
        backbone: a key of :data:`LAYOUTS`.
        output_stride: 8, 16 or, but for ``vgg16_block4``, 32; strides beyond it become dilation (:func:`dilate`).
        weights: ``none``, ``imagenet`` or the path of a state dict with torchvision's names.

    Raises:
        ConfigError: the weights cannot be had or do not fit.
    """
    layout = LAYOUTS[backbone]
    model = headless(backbone).to_empty(device=torch.get_default_device())
    initialise(model)
    if weights != "none":
        model.load_state_dict(read_weights(backbone, weights))
    layers = list(model.children() if layout.features is None else getattr(model, layout.features))
    starts = (0, *layout.ends[:-1])
    stages = [nn.Sequential(*layers[start:end]) for start, end in zip(starts, layout.ends, strict=True)]
    encoder = Encoder(stages, layout.out_channels)
    dilate(encoder, output_stride)
    return encoder


def headless(backbone: str) -> nn.Module:
    """The torchvision model without its head and without memory for its weights (VGG's head alone is 0.5 GB)."""
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(torchvision_name(backbone), weights=None)
    for name in LAYOUTS[backbone].head:
        model.set_submodule(name, nn.Identity())
    return model


def torchvision_name(backbone: str) -> str:
    """What torchvision calls the classifier that the backbone is cut from."""
    return LAYOUTS[backbone].model or backbone


def initialise(model: nn.Module) -> None:
    """Give fresh weights as torchvision does in all these backbones: N(0, 2 / fan_out), neutral batch norm."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.momentum = BATCH_NORM_MOMENTUM


def dilate(encoder: nn.Module, output_stride: int) -> None:
    """Turn every stride beyond ``output_stride`` into dilation of what follows it (arXiv 1706.05587, section 3.1).

    The features on the coarse grid stay the same, those between are new: with stride 32 the map would be every
    second (fourth) row and column of the map with stride 16 (8).
    """
    stride = dilation = 1
    for name, module in list(encoder.named_modules()):
        if not isinstance(module, nn.Conv2d | nn.MaxPool2d):
            continue
        kernel, step = as_int(module.kernel_size), as_int(module.stride)
        if kernel == 1:  # a shortcut, reached after the strided convolution of its block: it does as that one did
            if dilation > 1:
                module.stride = (1, 1)
            continue
        keeps_stride = stride * step <= output_stride
        if isinstance(module, nn.Conv2d):
            module.dilation = (dilation, dilation)
            module.padding = (dilation * (kernel // 2), dilation * (kernel // 2))
            if not keeps_stride:
                module.stride = (1, 1)
        elif not keeps_stride:
            encoder.set_submodule(name, dense_max_pool(kernel, dilation))
        if keeps_stride:
            stride *= step
        else:
            dilation *= step


def dense_max_pool(kernel: int, dilation: int) -> nn.Module:
    """A max-pool of stride 1 that keeps the size; zeros at the far edges never win, for ReLU comes before it."""
    margin = dilation * (kernel - 1)
    return nn.Sequential(nn.ZeroPad2d((0, margin, 0, margin)), nn.MaxPool2d(kernel, stride=1, dilation=dilation))


def as_int(size: int | tuple[int, ...]) -> int:
    """The side of a square kernel or stride, which torch keeps as a number or as a tuple."""
    return size if isinstance(size, int) else size[0]


def read_weights(backbone: str, weights: str) -> dict[str, Tensor]:
    """Read initial weights and check that they fit the backbone, whatever head they were trained with.

    Raises:
        ConfigError: the file cannot be had, is no state dict, or belongs to another model.
    """
    path = imagenet_file(backbone) if weights == "imagenet" else Path(weights)
    if not path.is_file():
        raise ConfigError(f"model.weights must be none, imagenet or a file; there is no file {weights!r}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"model.weights: {path} is not a state dict saved by torch.save ({error}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"model.weights: {path} holds no state dict, that is names with tensors.")
    heads = tuple(f"{name}." for name in LAYOUTS[backbone].head)
    state = {name: value for name, value in state.items() if not name.startswith(heads)}
    check_fit(backbone, state, path)
    return state


def check_fit(backbone: str, state: dict[str, Tensor], path: Path) -> None:
    """Raise ConfigError naming the first weights of ``state`` that are missing, unknown or of another shape."""
    expected = headless(backbone).state_dict()
    # Batch norm's counter is absent from older files, and only matters without momentum.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in expected]
    reshaped = [name for name in state if name in expected and state[name].shape != expected[name].shape]
    wrong = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    problems = [f"{len(names)} {how} ({', '.join(names[:3])})" for how, names in wrong.items() if names]
    if problems:
        fault = "; ".join(problems)
        name = torchvision_name(backbone)
        raise ConfigError(f"model.weights: {path} does not fit torchvision's {name}. Weights {fault}.")


def imagenet_file(backbone: str) -> Path:
    """The file of torchvision's ImageNet weights in torch's hub folder, downloaded if it is not there.

    Raises:
        ConfigError: it is not there and cannot be downloaded.
    """
    url: str = torchvision.models.get_model_weights(torchvision_name(backbone)).IMAGENET1K_V1.url
    file = PurePosixPath(urlparse(url).path)
    path = Path(torch.hub.get_dir()) / "checkpoints" / file.name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket_timeout(DOWNLOAD_TIMEOUT_S):
            # The part of the name after the dash is the start of the file's SHA-256.
            torch.hub.download_url_to_file(url, str(path), file.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ConfigError(
            f"model.weights=imagenet needs {file.name} for {backbone}, which could not be downloaded ({error}). "
            f"Fetch {url} where there is a network and put it into {path.parent}, or set model.weights=none."
        ) from error
    return path


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Limit the silence of sockets opened inside: torch's download sets no limit of its own and would hang."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
