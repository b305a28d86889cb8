"""What a trained model sees in validation images, computed as its validation computed it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainers.batches import evaluation_batches
from trainers.checkpoint import CheckpointError, load_checkpoint
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, Split
from trainers.loop import compute_logits, place_model, resolve_precision
from trainers.profiling import fresh_model


@torch.inference_mode()
def predict(
    config: TrialConfig, checkpoint: Path, data: SegmentationData, device: torch.device | str
) -> Iterator[NDArray[np.uint8]]:
    """The classes that a trial's kept model gives to the validation images, batch by batch.

    Normalisation, precision, memory layout and batches are those of the trial's validation, so that the predictions in
    all images are the very ones that its metrics were counted from. In batches of chosen images (:func:`select_images`)
    the last bits of the logits may differ, and a pixel between two classes with them.

    Args:
        config: the trial as it was trained.
        checkpoint: its ``best.pt``.
        data: the data set it was trained on; only its validation images are read.
        device: where to predict.

    Yields:
        Class indices of the next images, shape (n, height, width).

    Raises:
        CheckpointError: ``checkpoint`` is missing, unreadable, or not of this trial and these classes.
    """
    device = torch.device(device)
    model = load_model(config, checkpoint, data).eval()
    precision = resolve_precision(config, data.num_classes, device)
    model = place_model(model, device, precision)
    for pixels, _ in evaluation_batches(data.val, config.training.batch_size):
        classes = compute_logits(model, pixels, device, precision).argmax(1)
        yield classes.to(torch.uint8).cpu().numpy()


def load_model(config: TrialConfig, checkpoint: Path, data: SegmentationData) -> nn.Module:
    """The kept model of a trial, on the CPU.

    Raises:
        CheckpointError: as :func:`predict`.
    """
    if not checkpoint.is_file():
        raise CheckpointError(f"There is no checkpoint {checkpoint}.")
    kept = load_checkpoint(checkpoint)
    missing = [name for name in ("model", "config", "classes") if name not in kept]
    if missing:
        raise CheckpointError(f"{checkpoint} is not a trial's best.pt: it lacks {', '.join(missing)}.")
    if kept["config"] != config.to_dict():
        raise CheckpointError(f"{checkpoint} belongs to another configuration.")
    trained_on, present = [item["name"] for item in kept["classes"]], [item.name for item in data.classes]
    if trained_on != present:
        raise CheckpointError(f"{checkpoint} was trained on the classes {trained_on}; the data set has {present}.")
    model = fresh_model(config.model, data.num_classes)
    try:
        model.load_state_dict(kept["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint} does not hold the weights of its own configuration: {error}") from error
    return model


def select_images(split: Split, indices: Sequence[int]) -> Split:
    """The images at ``indices``, in memory; of a memory-mapped split nothing else is read."""
    rows = np.array(indices, np.intp)
    names = tuple(split.names[row] for row in rows)
    return Split(np.asarray(split.images[rows]), np.asarray(split.masks[rows]), names)


def spread(total: int, wanted: int) -> tuple[int, ...]:
    """``wanted`` of the positions 0 to ``total - 1``, evenly spaced with both ends; all when there are fewer."""
    return tuple(np.linspace(0, total - 1, min(wanted, total)).round().astype(int).tolist())
