"""What a trained model sees in validation images, computed as its validation computed it."""

from __future__ import annotations

from collections.abc import Sequence
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
    config: TrialConfig, checkpoint: Path, data: SegmentationData, indices: Sequence[int], device: torch.device | str
) -> NDArray[np.uint8]:
    """The classes that a trial's kept model gives to validation images.

    Normalisation, precision and memory layout are those of the trial's validation, and so are the batches when
    ``indices`` are all images in order: then the predictions are the very ones that its metrics were counted from.
    In batches made up otherwise the last bits of the logits may differ, and a pixel between two classes with them.

    Args:
        config: the trial as it was trained.
        checkpoint: its ``best.pt``.
        data: the data set it was trained on; only the chosen validation images are read.
        indices: positions in ``data.val``, in any order.
        device: where to predict.

    Returns:
        Class indices, shape (images, height, width).

    Raises:
        CheckpointError: ``checkpoint`` is missing, unreadable, or not of this trial and these classes.
    """
    device = torch.device(device)
    model = load_model(config, checkpoint, data).eval()
    precision = resolve_precision(config, data.num_classes, device)
    model = place_model(model, device, precision)
    split = select_images(data.val, indices)
    classes = np.empty(split.masks.shape, np.uint8)
    start = 0
    for pixels, _ in evaluation_batches(split, config.training.batch_size):
        logits = compute_logits(model, pixels, device, precision)
        classes[start : start + len(pixels)] = logits.argmax(1).cpu().numpy()
        start += len(pixels)
    return classes


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
