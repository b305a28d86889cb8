"""Diagnosing the front: each of its models predicts the whole validation set, in its own Ray task.

A task opens the packed data on its own node, as trials do, and hands back counts and a few masks: neither the images
nor the other predictions leave it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from search import columns
from search.diagnosis import Diagnosis, ModelDiagnosis, find_examples, write_diagnosis
from search.files import replaced_folder
from search.gallery_writer import NUM_IMAGES, GalleryWriter
from search.repeats import Row
from search.resources import Share
from search.run_folder import RunFolder
from search.storage import Storage
from search.stored_checkpoints import StoredModel
from trainers.checkpoint import Checkpoints
from trainers.config import DataConfig, TrialConfig
from trainers.datasets import DataError, SegmentationData, open_dataset
from trainers.diagnosis import ErrorCounter, SegmentationErrors, boundary_width_px, size_limits_px
from trainers.loop import resolve_device
from trainers.prediction import predict, spread
from trainers.settings import TrialError

WAIT_S = 600.0
"""Longest wait for the next model, beyond its work: a cluster that lost its nodes must not hold up a search's end."""
IMAGE_S = 0.1
"""Longest wait for counting the errors in an image: ten times what 512 x 512 pixels of 21 classes took."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What a model's task found."""

    errors: SegmentationErrors
    masks: Mapping[int, NDArray[np.uint8]]
    """The predictions to show, by position in the validation set: class indices, (height, width)."""


def diagnose_front(
    run: RunFolder,
    members: Sequence[Row],
    data: SegmentationData,
    source: DataConfig,
    share: Share,
    *,
    storage: str | None = None,
) -> Diagnosis:
    """Let the models of the front predict the validation set, and replace the run's diagnosis and gallery.

    A model that cannot predict (no checkpoint, out of memory, a process that died) is left out, with its reason in
    ``missing`` of both.

    Args:
        run: the run; nothing else may be writing its diagnosis or its gallery.
        members: rows of ``trials``, or their configurations, with ``trial_id`` and ``config``.
        data: the run's data set; only the images shown are read here.
        source: what ``data`` was opened from, for the tasks to open it where they run.
        share: what each prediction gets of the cluster that is connected to.
        storage: of all runs, where the checkpoints are; none where they are in the run's folder.

    Raises:
        OSError: the run's folder cannot be written; an old diagnosis and gallery are left as they were.
    """
    order = [row[columns.TRIAL_ID] for row in members]
    found: dict[str, ModelDiagnosis] = {}
    reasons: dict[str, str] = {}
    with replaced_folder(run.gallery) as folder:
        pictures = GalleryWriter(folder, data)
        for trial, outcome in _outcomes(run, members, data, source, share, storage=storage):
            if isinstance(outcome, str):
                reasons[trial] = outcome
            else:
                found[trial] = ModelDiagnosis(trial, **vars(outcome.errors))
                pictures.add(trial, outcome.masks)
        missing = {trial: reasons[trial] for trial in order if trial in reasons}
        models = {trial: found[trial] for trial in order if trial in found}
        pictures.finish(list(models), missing)
        diagnosis = _diagnosis(data, models, missing)
        write_diagnosis(run, diagnosis)
    return diagnosis


def _diagnosis(data: SegmentationData, models: Mapping[str, ModelDiagnosis], missing: Mapping[str, str]) -> Diagnosis:
    height, width = data.val.masks.shape[1:]
    return Diagnosis(
        classes=tuple(item.name for item in data.classes),
        image_names=data.val.names,
        members=models,
        missing=missing,
        boundary_width_px=boundary_width_px(height, width),
        size_limits_px=size_limits_px(height, width),
    )


def _outcomes(
    run: RunFolder,
    members: Sequence[Row],
    data: SegmentationData,
    source: DataConfig,
    share: Share,
    *,
    storage: str | None,
) -> Iterator[tuple[str, Findings | str]]:
    """Each member's ``trial_id`` with what its task found, or the reason why it found nothing."""
    # As options of the task itself, so that Ray ends a process after its GPU task, and the memory is free again.
    # No retries: a task that ran out of memory would be retried for ever.
    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(diagnose_member)
    names = ray.put(data.val.names)
    pending = {}
    for row in members:
        trial = row[columns.TRIAL_ID]
        checkpoint: Path | StoredModel = Checkpoints(run.trials.absolute() / trial).best
        if storage is not None:
            checkpoint = StoredModel(Storage(storage).child(run.name).uri, trial)
        pending[task.remote(row[columns.CONFIG], checkpoint, source, names, share.cpus)] = trial
    patience_s = WAIT_S + IMAGE_S * len(data.val) + max(map(_epoch_s, members), default=0.0)
    while pending:
        ended, _ = ray.wait(list(pending), timeout=patience_s)
        for reference in ended:
            yield pending.pop(reference), _outcome(reference)
        if not ended:
            for reference, trial in pending.items():
                ray.cancel(reference, force=True)
                yield trial, f"The cluster gave no prediction within {patience_s:.0f} s."
            return


def _epoch_s(row: Row) -> float:
    """Seconds that an epoch of the trial took, which validates after it trains: more than predicting needs."""
    train_time_s, epochs = row.get(columns.TRAIN_TIME_S), row.get(columns.EPOCH)
    return train_time_s / epochs if train_time_s and epochs else 0.0


def _outcome(reference: ray.ObjectRef[Findings]) -> Findings | str:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return str(cause) if isinstance(cause, TrialError) else f"{type(cause).__name__}: {cause}"
    except ray.exceptions.RayError as error:
        return f"The process that predicted died: {error}"


def diagnose_member(
    config: str, checkpoint: Path | StoredModel, source: DataConfig, names: tuple[str, ...], threads: int
) -> Findings:
    """The task of one model.

    Of the predictions only those are held that are to be shown, and never more than a batch of the others: the whole
    validation set may not fit in memory beside the model, and to predict it twice would take twice as long.

    Args:
        config: the trial's, as JSON.
        checkpoint: its ``best.pt``.
        source: where the data set is.
        names: the validation images of the search.
        threads: that torch may use.

    Raises:
        TrialError: the data set or the checkpoint cannot be used; the message is complete.
        StorageError: the checkpoint's storage cannot be read.
    """
    if isinstance(checkpoint, StoredModel):
        with checkpoint.fetched() as file:
            return diagnose_member(config, file, source, names, threads)
    torch.set_num_threads(threads)
    trial = TrialConfig.from_dict(json.loads(config))
    data = open_dataset(source)
    if data.val.names != names:
        raise DataError(f"The {len(data.val)} validation images where it ran are not the {len(names)} of the search.")
    common = spread(len(names), NUM_IMAGES)
    counter = ErrorCounter(data.num_classes, *data.val.masks.shape)
    masks: dict[int, NDArray[np.uint8]] = {}
    start = 0
    for predictions in predict(trial, checkpoint, data, resolve_device(trial.training.device)):
        counter.update(predictions, data.val.masks[start : start + len(predictions)])
        masks |= dict(enumerate(predictions, start))
        shown = {*common, *(example.image for example in find_examples(counter.image_classes))}
        # Copies, because a view would hold the whole batch.
        masks = {index: mask.copy() for index, mask in masks.items() if index in shown}
        start += len(predictions)
    return Findings(counter.compute(), masks)
