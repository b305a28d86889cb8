"""Writing a run's gallery: each model of the front predicts the same few validation images, in its own Ray task."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from PIL import Image

from search import columns
from search.files import write_atomically
from search.gallery import IMAGES, TRUTH, Gallery, write_index
from search.repeats import Row
from search.resources import Share
from search.run_folder import RunFolder
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.datasets import SegmentationClass, SegmentationData
from trainers.loop import resolve_device
from trainers.prediction import predict, select_images
from trainers.settings import TrialError

NUM_IMAGES = 6
"""Images shown, where the validation set has as many."""
WAIT_S = 600.0
"""Longest wait for the next prediction: a cluster that lost its nodes must not hold up the end of a search."""

Pixels = NDArray[np.uint8]


def write_gallery(run: RunFolder, members: Sequence[Row], data: SegmentationData, share: Share) -> Gallery:
    """Let the models of the front predict a few validation images, and replace the run's gallery.

    It is prepared beside the old one, which stays until the new one is whole. A model that cannot predict (no
    checkpoint, out of memory, a process that died) is left out, with its reason in :attr:`Gallery.missing`.

    Args:
        run: the run; nothing else may be writing its gallery.
        members: rows of ``trials``, or their configurations, with ``trial_id`` and ``config``.
        data: the run's data set; only the images shown are read.
        share: what each prediction gets of the cluster that is connected to.

    Raises:
        OSError: the run's folder cannot be written; an old gallery is left as it was.
    """
    partial = run.gallery.with_name(f".{run.gallery.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        gallery = _write(partial, run, members, data, share)
        _replace_folder(run.gallery, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dataclasses.replace(gallery, folder=run.gallery)


def _write(folder: Path, run: RunFolder, members: Sequence[Row], data: SegmentationData, share: Share) -> Gallery:
    indices = spread(len(data.val), NUM_IMAGES)
    shown = select_images(data.val, indices)
    few = dataclasses.replace(data, train=select_images(data.train, ()), val=shown)
    gallery = Gallery(
        folder=folder,
        names=dict(zip(indices, shown.names, strict=True)),
        classes=data.classes,
        ignored_color=neutral_color(data.classes),
        members=(),
        missing={},
    )
    _write_pictures(gallery, IMAGES, shown.images)
    _write_pictures(gallery, TRUTH, shown.masks)
    reasons: dict[str, str] = {}
    for trial, outcome in _predictions(run, members, few, share):
        if isinstance(outcome, str):
            reasons[trial] = outcome
        else:
            _write_pictures(gallery, trial, outcome)
    order = [row[columns.TRIAL_ID] for row in members]
    gallery = dataclasses.replace(
        gallery,
        members=tuple(trial for trial in order if trial not in reasons),
        missing={trial: reasons[trial] for trial in order if trial in reasons},
    )
    write_index(gallery)
    return gallery


def spread(total: int, wanted: int) -> tuple[int, ...]:
    """``wanted`` of the positions 0 to ``total - 1``, evenly spaced with both ends; all when there are fewer."""
    return tuple(np.linspace(0, total - 1, min(wanted, total)).round().astype(int).tolist())


def neutral_color(classes: Sequence[SegmentationClass]) -> tuple[int, int, int]:
    """The grey least like any class's colour: for pixels that do not count."""
    colors = np.array([item.color for item in classes])
    level = max(range(256), key=lambda grey: float(np.linalg.norm(colors - grey, axis=1).min()))
    return level, level, level


def _predictions(
    run: RunFolder, members: Sequence[Row], few: SegmentationData, share: Share
) -> Iterator[tuple[str, Pixels | str]]:
    """Each member's ``trial_id`` with its class indices (images, height, width) or the reason why there are none."""
    # As options of the task itself, so that Ray ends a process after its GPU task, and the memory is free again.
    # No retries: a task that ran out of memory would be retried for ever.
    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(predict_member)
    shared = ray.put(few)
    pending = {}
    for row in members:
        trial = row[columns.TRIAL_ID]
        checkpoint = Checkpoints(run.trials.absolute() / trial).best
        pending[task.remote(row[columns.CONFIG], checkpoint, shared, share.cpus)] = trial
    while pending:
        ended, _ = ray.wait(list(pending), timeout=WAIT_S)
        for reference in ended:
            yield pending.pop(reference), _outcome(reference)
        if not ended:
            for reference, trial in pending.items():
                ray.cancel(reference, force=True)
                yield trial, f"The cluster gave no prediction within {WAIT_S:g} s."
            return


def _outcome(reference: ray.ObjectRef[Pixels]) -> Pixels | str:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return str(cause) if isinstance(cause, TrialError) else f"{type(cause).__name__}: {cause}"
    except ray.exceptions.RayError as error:
        return f"The process that predicted died: {error}"


def predict_member(config: str, checkpoint: Path, few: SegmentationData, threads: int) -> Pixels:
    """The task: class indices of all validation images of ``few``; ``config`` is the trial's, as JSON."""
    torch.set_num_threads(threads)
    trial = TrialConfig.from_dict(json.loads(config))
    return predict(trial, checkpoint, few, range(len(few.val)), resolve_device(trial.training.device))


def _write_pictures(gallery: Gallery, kind: str, pictures: Pixels) -> None:
    """Write one picture an image of the gallery: RGB (n, h, w, 3), or masks (n, h, w)."""
    for index, pixels in zip(gallery.names, pictures, strict=True):
        picture = Image.fromarray(pixels)
        if pixels.ndim == 2:
            picture.putpalette(_palette(gallery))
        path = gallery.file(kind, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, functools.partial(picture.save, format="PNG"))


def _palette(gallery: Gallery) -> list[int]:
    """Red, green and blue of the 256 mask values."""
    palette = np.full((256, 3), gallery.ignored_color, np.uint8)
    palette[: len(gallery.classes)] = [item.color for item in gallery.classes]
    flat: list[int] = palette.ravel().tolist()
    return flat


def _replace_folder(place: Path, new: Path) -> None:
    """Move the folder ``new`` to ``place``: a reader finds the old content, for a moment nothing, then the new."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
