"""What settings can be chosen from, and which settings have an effect beside which choice."""

from __future__ import annotations

ARCHITECTURE_FIELDS: dict[str, tuple[str, ...]] = {
    "unet": ("size", "base_channels", "convolution", "attention"),
    "resunet": ("base_channels",),
    "fcn": ("backbone", "weights", "output_stride", "decoder_channels"),
    "pspnet": ("backbone", "weights", "output_stride", "decoder_channels"),
    "deeplab": (
        *("backbone", "weights", "output_stride", "decoder_channels"),
        *("aspp", "aspp_rates", "skip", "separable"),
    ),
}
"""The fields of :class:`ModelConfig` that each architecture reads; the others have no effect on it."""
SMP_PREFIX = "smp."
"""Begins the architectures that are decoders of segmentation_models.pytorch, an optional extra."""
SMP_DECODERS = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN"),
    *("DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer", "DPT"),
)
SMP_FIELDS = ("backbone", "weights")
"""The fields of :class:`ModelConfig` that a decoder of segmentation_models.pytorch reads."""
EXTRAS = ("convolution", "attention", "skip", "separable")
"""Fields of :class:`ModelConfig` that change a published architecture; at their default nobody mentions them."""
DECODER_CHANNELS = {"fcn": 1024, "pspnet": 512, "deeplab": 256}
"""Published width of each decoder."""

BACKBONES = (
    *("resnet18", "resnet34", "resnet50"),
    *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg16_block4"),
    *("mobilenet_v3_small", "mobilenet_v3_large"),
)
UNET_SIZES = ("original", "medium", "small")
CONVOLUTIONS = ("standard", "separable", "inverted_bottleneck")
OUTPUT_STRIDES = (8, 16, 32)
DATASETS = ("scenes", "folder", "camvid", "floodnet", "voc")
POLICIES = ("none", "light", "strong", "custom")
LOSSES = ("cross_entropy", "focal", "dice", "lovasz", "hinge", "sum")
CLASS_WEIGHTS = ("none", "inverse_frequency", "median_frequency", "effective_number")
OPTIMIZERS = ("adam", "adamw", "adamax", "sgd")
SCHEDULES = ("constant", "multistep", "cosine", "poly", "time_decay")
PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")

READ_ONLY_WHEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "augmentation.flips": ("augmentation.policy", ("custom",)),
    "augmentation.scale": ("augmentation.policy", ("custom",)),
    "augmentation.color": ("augmentation.policy", ("custom",)),
    "augmentation.dropout": ("augmentation.policy", ("custom",)),
    "loss.focal_gamma": ("loss.name", ("focal", "sum")),
    **{f"loss.terms.{name}": ("loss.name", ("sum",)) for name in LOSSES if name != "sum"},
    "loss.weight_exponent": ("loss.class_weights", tuple(name for name in CLASS_WEIGHTS if name != "none")),
    "loss.effective_beta": ("loss.class_weights", ("effective_number",)),
    "optimizer.momentum": ("optimizer.name", ("sgd",)),
    "schedule.milestones": ("schedule.name", ("multistep",)),
    "schedule.gamma": ("schedule.name", ("multistep",)),
    "schedule.power": ("schedule.name", ("poly",)),
    "schedule.decay": ("schedule.name", ("time_decay",)),
}
"""Settings outside the model that are without effect unless another one has one of these values."""


def fields_read(architecture: str) -> tuple[str, ...]:
    """The fields of :class:`ModelConfig` that this architecture reads."""
    return SMP_FIELDS if architecture.startswith(SMP_PREFIX) else ARCHITECTURE_FIELDS[architecture]
