"""The kinds of 3x3 convolution that ``model.convolution`` may name."""

from __future__ import annotations

from torch import nn

EXPANSION = 3
"""Width of an inverted bottleneck over that of its input. MobileNetV2 takes 6, for thin layers; 3 is the largest at
which no stage of a UNet of published width holds more weights than with standard convolutions."""


class SeparableConvolution(nn.Sequential):
    """A 3x3 convolution a channel, then a 1x1 convolution over channels; atrous separable with ``dilation``.

    Nothing lies between the two, as Xception found best (Chollet, arXiv 1610.02357, section 4.7).
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1, bias: bool) -> None:
        depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        super().__init__(depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=bias))


def build_convolution(
    kind: str, in_channels: int, out_channels: int, *, dilation: int = 1, bias: bool
) -> nn.Conv2d | SeparableConvolution:
    """A 3x3 convolution (n, in_channels, h, w) to (n, out_channels, h, w) with torch's initial weights.

    Args:
        kind: ``standard`` or ``separable``.
        in_channels: channels of its input.
        out_channels: channels of its output.
        dilation: distance of its taps in pixels.
        bias: whether to add one value a channel; of no use before batch norm.
    """
    assert kind in {"standard", "separable"}
    if kind == "separable":
        return SeparableConvolution(in_channels, out_channels, dilation=dilation, bias=bias)
    return nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=bias)


def build_inverted_bottleneck(in_channels: int, out_channels: int) -> nn.Module:
    """MobileNetV2's block (Sandler et al., arXiv 1801.04381) from (n, in_channels, h, w) to (n, out_channels, h, w).

    1x1 to :data:`EXPANSION` times the channels, 3x3 depthwise, 1x1 to the output; batch norm after each, ReLU6 after
    the first two, the input added where the channels stay the same.
    """
    from torchvision.models.mobilenetv2 import InvertedResidual  # noqa: PLC0415 - the other kinds do without

    block: nn.Module = InvertedResidual(in_channels, out_channels, stride=1, expand_ratio=EXPANSION)
    initialise(block)
    return block


def initialise(module: nn.Module) -> None:
    """Give all convolutions in ``module`` weights from N(0, 2 / fan_in), which keep the variance before a ReLU.

    The depthwise half of a separable convolution has no ReLU behind it: N(0, 1 / fan_in).
    """
    depthwise = {part[0] for part in module.modules() if isinstance(part, SeparableConvolution)}
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="linear" if part in depthwise else "relu")
