"""Attention gates: what a decoder already knows decides where a skip connection passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.models.resizing import resize_as


class AttentionGate(nn.Module):
    """Additive attention of Attention U-Net (Oktay et al., arXiv 1804.03999, equations 1 and 2).

    As in the paper the sum is taken on the coarser grid of the gating signal, to which a strided convolution brings
    the skip connection, and the coefficients are resized bilinearly. Their inner width, on which the paper is silent,
    is half that of the skip connection.
    """

    def __init__(self, skip_channels: int, gate_channels: int) -> None:
        super().__init__()
        inner_channels = max(1, skip_channels // 2)
        self.from_skip = nn.Conv2d(skip_channels, inner_channels, 2, stride=2, bias=False)
        self.from_gate = nn.Conv2d(gate_channels, inner_channels, 1)
        self.score = nn.Conv2d(inner_channels, 1, 1)

    def coefficients(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Share of each pixel of ``skip`` (n, skip_channels, 2h, 2w) that passes, (n, 1, 2h, 2w), between 0 and 1.

        ``gate`` (n, gate_channels, h, w) is the coarser feature map that decides.
        """
        scores = self.score(torch.relu(self.from_skip(skip) + self.from_gate(gate)))
        return resize_as(torch.sigmoid(scores), skip)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Scale each pixel of ``skip`` by its coefficient."""
        return skip * self.coefficients(skip, gate)
