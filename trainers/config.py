"""One trial, completely described: what ``python -m trainers.train config.yaml`` needs and nothing more.

A space's parameter names are dotted paths into :class:`TrialConfig` (``model.backbone``, ``optimizer.lr``).
Every class is frozen and refuses bad values with the rule and the value.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from trainers.choices import (
    ARCHITECTURE_FIELDS,
    BACKBONES,
    CLASS_WEIGHTS,
    CONVOLUTIONS,
    DATASETS,
    DECODER_CHANNELS,
    DEVICES,
    LOSSES,
    OPTIMIZERS,
    OUTPUT_STRIDES,
    POLICIES,
    PRECISIONS,
    SCHEDULES,
    SMP_DECODERS,
    SMP_PREFIX,
    UNET_SIZES,
    fields_read,
)
from trainers.settings import ConfigError, choose, read_settings, require, schema, setting_names, unknown_setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is built. Which fields an architecture reads is in :data:`~trainers.choices.ARCHITECTURE_FIELDS`."""

    architecture: str = "unet"
    """``unet``, ``resunet``, ``fcn``, ``pspnet``, ``deeplab``, or ``smp.<Decoder>`` of segmentation_models.pytorch."""
    size: str = "original"
    """UNet: ``original``, ``medium`` or ``small``, the three published shapes."""
    base_channels: int = 64
    """UNet, ResUNet: channels of the first stage; 64 is the published width, and all stages scale with it."""
    convolution: str = "standard"
    """UNet: what 3x3 convolutions are: ``standard``, ``separable`` (depthwise, then pointwise) or
    ``inverted_bottleneck``."""
    attention: bool = False
    """UNet: attention gates on the skip connections."""
    backbone: str = "resnet18"
    """FCN, PSPNet, DeepLab: the torchvision feature extractor; ``vgg16_block4`` is that of the published FCN.
    ``smp.*``: any encoder of that library."""
    weights: str = "none"
    """Initial backbone weights: ``none``, ``imagenet``, or the path of a state dict."""
    output_stride: int = 16
    """FCN, PSPNet, DeepLab: input size over feature map size at the end of the backbone: 8, 16 or 32."""
    aspp: bool = True
    """DeepLab: atrous spatial pyramid pooling between backbone and head."""
    aspp_rates: list[int] = field(default_factory=lambda: [6, 12, 18])
    """DeepLab: dilation of the atrous branches of ASPP."""
    skip: bool = False
    """DeepLab: join the backbone's features of stride 4 before the head, as DeepLabV3+ does."""
    separable: bool = False
    """DeepLab: separable 3x3 convolutions in ASPP and head, as in DeepLabV3+."""
    decoder_channels: int | None = None
    """FCN, PSPNet, DeepLab: channels of the decoder; none is the published width, 1024, 512 or 256."""

    def __post_init__(self) -> None:
        self._check_architecture()
        choose("model.size", self.size, UNET_SIZES)
        require(self.base_channels >= 1, "model.base_channels", "at least 1", self.base_channels)
        choose("model.convolution", self.convolution, CONVOLUTIONS)
        rates_ok = bool(self.aspp_rates) and all(rate >= 1 for rate in self.aspp_rates)
        require(rates_ok, "model.aspp_rates", "a non-empty list of rates of at least 1", self.aspp_rates)
        require(self.output_stride in OUTPUT_STRIDES, "model.output_stride", "8, 16 or 32", self.output_stride)
        width = self.decoder_channels
        require(width is None or width >= 1, "model.decoder_channels", "at least 1 or null", width)

    def _check_architecture(self) -> None:
        smp = tuple(SMP_PREFIX + decoder for decoder in SMP_DECODERS)
        choose("model.architecture", self.architecture, (*ARCHITECTURE_FIELDS, *smp))
        if self.architecture not in smp:  # that library knows its own encoders
            choose("model.backbone", self.backbone, BACKBONES)
        if self.backbone == "vgg16_block4" and "output_stride" in fields_read(self.architecture):
            rule = "8 or 16 for model.backbone=vgg16_block4, which ends there"
            require(self.output_stride != 32, "model.output_stride", rule, self.output_stride)

    @property
    def decoder_width(self) -> int:
        """Channels of the decoder, of an architecture that reads ``decoder_channels``."""
        return self.decoder_channels or DECODER_CHANNELS[self.architecture]

    def identity(self) -> dict[str, Any]:
        """The fields that make this architecture what it is: two equal identities build the same layers.

        ``weights`` is left out: it changes the numbers in the layers, not the layers.
        """
        without = {"weights"} if self.aspp else {"weights", "aspp_rates"}
        read = {name: getattr(self, name) for name in fields_read(self.architecture) if name not in without}
        if "decoder_channels" in read:
            read["decoder_channels"] = self.decoder_width
        return {"architecture": self.architecture} | read


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images and masks, and the size they are packed at."""

    name: str = "scenes"
    """``scenes`` (built in), ``folder``, ``camvid``, ``floodnet`` or ``voc``."""
    root: str | None = None
    """Where the data set lies; every set but ``scenes`` needs it."""
    height: int = 96
    """Height in pixels that images and masks are resized to when packed."""
    width: int = 128
    """Width in pixels that images and masks are resized to when packed."""
    crop: int | None = None
    """Side in pixels of the random square crops trained on; none trains on whole images."""
    val_fraction: float | None = None
    """Share of the training images held out for validation; none uses the set's own held-out split."""
    split_seed: int = 0
    """Seed of the held-out choice; for ``scenes`` also the seed of the pictures."""
    max_images: int | None = None
    """Use at most this many images of each split (the first by name); none uses all."""
    classes: str | None = None
    """``folder``: the class file, by default ``<root>/classes.csv``."""
    on_error: str = "fail"
    """``fail`` at bad pairs after listing them all, or ``skip`` them and say so."""
    cache: str | None = None
    """Folder of the packed files, by default ``segmentation-search`` in the user's cache folder."""

    def __post_init__(self) -> None:
        choose("data.name", self.name, DATASETS)
        require(self.root is not None or self.name == "scenes", "data.root", f"set for data={self.name}", self.root)
        require(self.height >= 16, "data.height", "at least 16", self.height)
        require(self.width >= 16, "data.width", "at least 16", self.width)
        if self.crop is not None:
            require(self.crop >= 16, "data.crop", "at least 16 or null", self.crop)
            fits = self.crop <= min(self.height, self.width)
            size = f"at most the packed image size {self.height} x {self.width} (data.height x data.width)"
            require(fits, "data.crop", size, self.crop)
        if self.val_fraction is not None:
            require(0 < self.val_fraction < 1, "data.val_fraction", "between 0 and 1, both excluded", self.val_fraction)
        require(self.split_seed >= 0, "data.split_seed", "at least 0", self.split_seed)
        if self.max_images is not None:
            require(self.max_images >= 2, "data.max_images", "at least 2 or null", self.max_images)
        choose("data.on_error", self.on_error, ("fail", "skip"))


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How training images are varied."""

    policy: str = "light"
    """``none``, ``light`` (flips), ``strong`` (flips, scale, rotation, colour, noise), or ``custom``: the parts below,
    each with its own strength."""
    flips: float = 0.5
    """Custom: probability of each mirroring, left to right and top to bottom."""
    scale: float = 0.0
    """Custom: images are scaled by a factor between 1 / (1 + scale) and 1 + scale, then cropped or mirrored to size."""
    color: float = 0.0
    """Custom: largest relative change of brightness, contrast and saturation."""
    dropout: float = 0.0
    """Custom: share of each image that is blanked out in rectangles, whose pixels are not trained on."""

    def __post_init__(self) -> None:
        choose("augmentation.policy", self.policy, POLICIES)
        require(0 <= self.flips <= 1, "augmentation.flips", "a probability between 0 and 1", self.flips)
        require(0 <= self.scale <= 3, "augmentation.scale", "between 0 and 3", self.scale)
        require(0 <= self.color <= 1, "augmentation.color", "between 0 and 1", self.color)
        require(0 <= self.dropout <= 0.9, "augmentation.dropout", "between 0 and 0.9", self.dropout)


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Factor of each loss in a sum."""

    cross_entropy: float = 1.0
    focal: float = 0.0
    dice: float = 0.0
    lovasz: float = 0.0
    hinge: float = 0.0

    def __post_init__(self) -> None:
        for name, factor in dataclasses.asdict(self).items():
            require(0 <= factor < float("inf"), f"loss.terms.{name}", "at least 0 and finite", factor)
        positive = any(factor > 0 for factor in dataclasses.asdict(self).values())
        require(positive, "loss.terms", "given at least one factor above 0", dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised."""

    name: str = "cross_entropy"
    """``cross_entropy``, ``focal``, ``dice``, ``lovasz`` (a surrogate of the Jaccard index), ``hinge`` (multi-class),
    or ``sum``: all of them with the factors of ``terms``."""
    terms: LossTerms = field(default_factory=LossTerms)
    """Sum: the factor of each loss."""
    focal_gamma: float = 2.0
    """Focal: how much easy pixels count less; 0 is cross-entropy."""
    class_weights: str = "none"
    """Weight of each class from its share of the training pixels, mean 1 over the classes present: ``none``,
    ``inverse_frequency``, ``median_frequency`` or ``effective_number``."""
    weight_exponent: float = 1.0
    """Power that class weights are raised to before they are scaled: 0.5 softens them to their square root."""
    effective_beta: float = 0.999999
    """Effective number of samples: (1 - beta^n) / (1 - beta) of n pixels; 1 / (1 - beta) pixels are enough to count
    as many."""

    def __post_init__(self) -> None:
        choose("loss.name", self.name, LOSSES)
        choose("loss.class_weights", self.class_weights, CLASS_WEIGHTS)
        require(0 <= self.focal_gamma <= 10, "loss.focal_gamma", "between 0 and 10", self.focal_gamma)
        require(0 < self.weight_exponent <= 2, "loss.weight_exponent", "above 0 and at most 2", self.weight_exponent)
        beta = self.effective_beta
        require(0 <= beta < 1, "loss.effective_beta", "at least 0 and below 1", beta)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How it is minimised."""

    name: str = "adam"
    """``adam``, ``adamw`` (weight decay apart from the gradient), ``adamax`` or ``sgd``."""
    lr: float = 1e-3
    """Initial learning rate."""
    momentum: float = 0.0
    """SGD: momentum."""
    weight_decay: float = 0.0
    """L2 penalty; for ``adamw`` the decay of the weights a step."""

    def __post_init__(self) -> None:
        choose("optimizer.name", self.name, OPTIMIZERS)
        require(0 < self.lr < float("inf"), "optimizer.lr", "positive and finite", self.lr)
        require(0 <= self.momentum < 1, "optimizer.momentum", "in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "optimizer.weight_decay", "at least 0", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes over a trial."""

    name: str = "constant"
    """``constant``, ``multistep``, ``cosine``, ``poly`` or ``time_decay``."""
    milestones: list[int] = field(default_factory=lambda: [20, 40, 60])
    """Multistep: epochs after which the rate is multiplied by ``gamma``."""
    gamma: float = 0.3
    """Multistep: the factor."""
    power: float = 0.9
    """Poly: lr (1 - step / steps) ** power."""
    decay: float = 1e-3
    """Time decay: lr / (1 + decay step), as Keras' ``decay``; a step is one batch."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises linearly from nearly 0; it multiplies the schedule, which does not wait."""

    def __post_init__(self) -> None:
        choose("schedule.name", self.name, SCHEDULES)
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        positive = all(milestone >= 1 for milestone in self.milestones)
        require(rising and positive, "schedule.milestones", "rising epochs of at least 1", self.milestones)
        require(0 < self.gamma <= 1, "schedule.gamma", "in (0, 1]", self.gamma)
        require(self.power > 0, "schedule.power", "positive", self.power)
        require(self.decay >= 0, "schedule.decay", "at least 0", self.decay)
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", "at least 0", self.warmup_epochs)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on what, and from which seed."""

    epochs: int = 50
    """Full budget of a trial in passes over the training images."""
    batch_size: int = 16
    """Images per optimizer step, all workers of the trial together."""
    seed: int = 0
    """Seed of weights, batch order and augmentation."""
    precision: str = "auto"
    """``fp32``, ``bf16`` (autocast, channels last), or ``auto``: the faster one, measured per architecture."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``: a GPU when there is one."""
    sync_batchnorm: bool = False
    """Whether the workers of one trial normalise by the statistics of the whole batch instead of each its own part;
    on GPUs only, and without effect on one worker."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "training.epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "training.batch_size", "at least 1", self.batch_size)
        require(0 <= self.seed < 2**31, "training.seed", "in [0, 2^31)", self.seed)
        choose("training.precision", self.precision, PRECISIONS)
        choose("training.device", self.device, DEVICES)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that decides the outcome of one trial."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        # A branch pooled over the image is one value a channel and image: batch norm cannot train on one image.
        architecture = self.model.architecture
        pools = architecture in ("deeplab", "pspnet") or architecture.startswith(SMP_PREFIX)
        alone = self.training.batch_size == 1 and pools
        require(not alone, "training.batch_size", f"at least 2 for model.architecture={architecture}", 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Build from nested dicts; missing fields keep their defaults.

        Raises:
            ConfigError: an unknown field, a value of the wrong type, or one out of range.
        """
        settings = _schema()
        try:
            config = OmegaConf.to_object(OmegaConf.merge(settings, OmegaConf.create(dict(values))))
        except ConfigKeyError as error:
            raise unknown_setting(str(error.full_key), setting_names(settings)) from error
        except OmegaConfBaseException as error:
            name = f"{error.full_key}: " if error.full_key else ""
            raise ConfigError(name + str(error).splitlines()[0]) from error
        assert isinstance(config, cls)
        return config

    @classmethod
    def load(cls, path: Path, changes: DictConfig | None = None) -> TrialConfig:
        """Read a YAML file written by :meth:`save` or by hand, with ``changes`` on top.

        Raises:
            ConfigError: not YAML, or as :meth:`from_dict`.
        """
        try:
            content = read_settings(path)
        except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as settings: {error}") from error
        if not isinstance(content, DictConfig):
            raise ConfigError(f"{path} cannot be read as settings: it holds a list.")
        return cls.from_dict(OmegaConf.to_container(OmegaConf.merge(content, changes or {})))  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write as YAML."""
        OmegaConf.save(OmegaConf.create(self.to_dict()), path)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, as :meth:`from_dict` reads them."""
        return dataclasses.asdict(self)

    def replace(self, assignment: Mapping[str, Any]) -> TrialConfig:
        """A copy with the dotted paths of ``assignment`` set, e.g. ``{"optimizer.lr": 1e-3}``.

        Raises:
            ConfigError: as :meth:`from_dict`.
        """
        values = self.to_dict()
        for path, value in assignment.items():
            *groups, leaf = path.split(".")
            node: Any = values
            for group in groups:
                node = node.get(group) if isinstance(node, dict) else None
            if not isinstance(node, dict):
                raise unknown_setting(path, setting_names(_schema()))
            node[leaf] = value
        return TrialConfig.from_dict(values)


@functools.cache
def _schema() -> DictConfig:
    """Made once: it takes longer than all the rest of :meth:`TrialConfig.from_dict`, which copies it."""
    return schema(TrialConfig)
