"""A trained network as it is served: pixels in, logits out, with operations that every image size goes through."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from trainers.batches import IMAGENET_MEAN, IMAGENET_STD
from trainers.models.resunet import ResUNet
from trainers.models.smp import PaddedModel
from trainers.models.unet import UNet

MIN_SIDE = 32
"""Smallest side in pixels of the images that every architecture takes."""


class ServedModel(nn.Module):
    """A network with its normalisation inside, so that nobody can forget it or do it twice.

    Images are uint8, as decoders give them: float images between 0 and 1 are refused by their type and not misread.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB images, uint8 (n, 3, h, w), to logits, float32 (n, classes, h, w)."""
        logits: Tensor = self.model((images.to(torch.float32) - self.mean) / self.std)
        return logits


class AreaMeans(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, which ONNX can express where the image size is not known."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, c, rows, columns)."""
        height, width = features.shape[-2:]
        means: Tensor = _shares(height, self.rows, features) @ features @ _shares(width, self.columns, features).T
        return means


def _shares(side: int, parts: int, like: Tensor) -> Tensor:
    """Weight of each of ``side`` pixels in the mean of each part, (parts, side); parts may overlap by a pixel."""
    part = torch.arange(parts, device=like.device)[:, None]
    start, end = part * side // parts, ((part + 1) * side + parts - 1) // parts
    pixel = torch.arange(side, device=like.device)
    return ((pixel >= start) & (pixel < end)).to(like.dtype) / (end - start)


def exportable(model: nn.Module) -> ServedModel:
    """A copy of a network, as it is served, in which every operation can be exported for any image size, and run."""
    served = ServedModel(copy.deepcopy(model)).eval()
    for name, module in list(served.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d):
            size = module.output_size
            rows, columns = size if isinstance(size, tuple) else (size, size)
            if rows is not None and columns is not None and (rows, columns) != (1, 1):
                served.set_submodule(name, AreaMeans(rows, columns))
        elif isinstance(module, nn.Sequential) and [type(layer) for layer in module] == [nn.ZeroPad2d, nn.MaxPool2d]:
            # The dense max-pool of dilated backbones. onnxruntime moves zeros before it into it, and then refuses
            # their number. Behind a ReLU, as there, -1 wins as little as 0 does.
            padding = module[0].padding
            assert isinstance(padding, tuple)
            module[0] = nn.ConstantPad2d(padding, -1.0)
    return served


def side_rule(model: nn.Module) -> tuple[int, int]:
    """What the sides of a network's images must be divisible by for it not to pad them, and the smallest such side.

    Padding depends on the size in ways that an exported graph cannot follow; where there is none, the size is free.
    """
    multiple, min_side = 1, MIN_SIDE
    if isinstance(model, UNet | ResUNet):
        multiple = model.stride
    elif isinstance(model, PaddedModel):
        multiple, min_side = model.multiple, max(MIN_SIDE, model.min_side)
    # A dimension of size 1 is a constant to torch.export, so the coarsest map has to have two pixels a side.
    return multiple, max(2 * multiple, math.ceil(min_side / multiple) * multiple)
