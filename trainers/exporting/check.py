"""Whether an exported file does as the trained model does: the same logits, the same mIoU, at every promised shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trainers.batches import evaluation_batches
from trainers.datasets import Split
from trainers.evaluation import ConfusionMatrix
from trainers.exporting.description import ExportError, InputShape
from trainers.exporting.runners import Floats, Run
from trainers.loop import compute_logits
from trainers.prediction import select_images, spread

MAX_IMAGES = 200
"""Validation images compared; of more, so many evenly spaced ones."""
BATCH = 8
"""Images of one comparison, where the file takes more than one."""
MAX_DIFFERENCE = 1e-4
"""Largest difference of two logits, relative to the largest logit of the trained model. Both compute in float32 on the
CPU and differ only in the order of sums: 1e-6 to 1e-5 in the architectures here (``test_exporting_all``). A weight
that was changed enough to matter, or lost to half precision (1e-3), lies beyond."""
MAX_MIOU_CHANGE = 1e-3
"""Largest difference of mIoU. Logits as close as that change it only where two classes are as good as tied."""
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What the comparison of an exported file with the trained model found."""

    images: int
    """Validation images compared."""
    val_images: int
    """Validation images there are."""
    largest_difference: float
    """Of two logits."""
    logit_scale: float
    """Largest absolute logit of the trained model."""
    pixels_changed: float
    """Share of all pixels that got another class."""
    miou_before: float
    """Of the trained model in float32 on these images."""
    miou_after: float
    """Of the exported file on these images."""
    shapes: list[list[int]]
    """Further batches (n, height, width) of noise on which the logits were compared."""

    @property
    def relative_difference(self) -> float:
        """The largest difference as a share of the logits' scale."""
        return self.largest_difference / self.logit_scale if self.logit_scale else self.largest_difference

    def describe(self) -> str:
        """The result for people."""
        which = "all" if self.images == self.val_images else f"{self.images} of"
        shapes = ", ".join(f"{n} x {height} x {width}" for n, height, width in self.shapes)
        return (
            f"{which} {self.val_images} validation images: largest difference of logits {self.largest_difference:.1e} "
            f"({self.relative_difference:.1e} of the largest logit, limit {MAX_DIFFERENCE:.0e}), "
            f"{self.pixels_changed:.4%} of pixels in another class, mIoU {self.miou_before:.4f} before and "
            f"{self.miou_after:.4f} after. Batches of other shapes (images x height x width): {shapes}."
        )


def check_shapes(run: Run, model: nn.Module, shape: InputShape) -> list[list[int]]:
    """Compare logits on noise in batches of every kind that ``shape`` promises; returns (n, height, width) of each.

    Raises:
        ExportError: they differ, or the file does not run.
    """
    compared = []
    for count, height, width in promised_shapes(shape):
        generator = torch.Generator().manual_seed(count)
        images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
        expected = trained_logits(model, images)
        difference = largest_difference(run(images.numpy()), expected)
        if not difference <= MAX_DIFFERENCE * scale_of(expected):
            raise ExportError(
                f"on a batch of {count} x {height} x {width} (images x height x width) its logits differ from those "
                f"of the trained model by {difference:.1e}, of {scale_of(expected):.1e} at most"
            )
        compared.append([count, height, width])
    return compared


def promised_shapes(shape: InputShape) -> Iterator[tuple[int, int, int]]:
    """Batches at and away from the shape that the graph was traced with: (n, height, width)."""
    yield 1, shape.height, shape.width
    if shape.any_batch:
        yield 3, shape.height, shape.width
    if shape.any_size:
        # Odd multiples: even ones would not tell a step from twice the step. And the other way round, if not square.
        larger = [
            (math.floor(1.3 * side / shape.multiple) | 1) * shape.multiple for side in (shape.width, shape.height)
        ]
        yield 1, larger[0], larger[1]
        yield 2, shape.min_side, shape.min_side + shape.multiple


def check_images(run: Run, model: nn.Module, val: Split, num_classes: int, shapes: list[list[int]]) -> CheckResult:
    """Compare the exported file with the trained model on validation images.

    Args:
        run: the exported file, opened anew.
        model: the trained model on the CPU.
        val: the validation images, at the size trained on.
        num_classes: channels of the logits.
        shapes: what :func:`check_shapes` found to work.

    Raises:
        ExportError: logits or mIoU differ by more than the limits, which the message gives with the result.
    """
    chosen = select_images(val, spread(len(val), MAX_IMAGES))
    before, after = (ConfusionMatrix(num_classes, _CPU) for _ in range(2))
    difference = scale = 0.0
    changed = pixels = 0
    for images, truth in evaluation_batches(chosen, BATCH):
        expected = trained_logits(model, images)
        actual = torch.from_numpy(run(np.ascontiguousarray(images.numpy())))
        difference = max(difference, largest_difference(actual.numpy(), expected))
        scale = max(scale, scale_of(expected))
        wanted, got = expected.argmax(1), actual.argmax(1)
        before.update(wanted, truth)
        after.update(got, truth)
        changed += int((wanted != got).sum())
        pixels += wanted.numel()
    result = CheckResult(
        images=len(chosen),
        val_images=len(val),
        largest_difference=difference,
        logit_scale=scale,
        pixels_changed=changed / pixels,
        miou_before=before.compute().miou,
        miou_after=after.compute().miou,
        shapes=shapes,
    )
    _require_equal(result)
    return result


def _require_equal(result: CheckResult) -> None:
    close = result.relative_difference <= MAX_DIFFERENCE
    if not close or abs(result.miou_after - result.miou_before) > MAX_MIOU_CHANGE:
        raise ExportError(f"The exported file does not do as the trained model does: {result.describe()}")


@torch.inference_mode()
def trained_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of the trained model in float32, by the very steps of its validation; ``images`` are uint8."""
    return compute_logits(model, images, _CPU, "fp32")


def largest_difference(actual: Floats, expected: Tensor) -> float:
    """Largest absolute difference of two logits; infinite for another shape, another type or a NaN."""
    wanted = expected.numpy()
    if actual.shape != wanted.shape or actual.dtype != np.float32:
        return math.inf
    difference = float(np.abs(actual - wanted).max())
    return math.inf if math.isnan(difference) else difference


def scale_of(logits: Tensor) -> float:
    """Largest absolute logit."""
    return float(logits.abs().max())
