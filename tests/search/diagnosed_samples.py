"""A made-up diagnosis and gallery for the runs of :mod:`run_samples`, written through the writers of a real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from run_samples import full_run

from search import columns
from search.diagnosis import Diagnosis, ModelDiagnosis, examples, write_diagnosis
from search.gallery import IMAGES, TRUTH, Gallery, write_index
from search.reporting.build import build_report
from search.reporting.record import read_record
from search.run_folder import RunFolder
from trainers.datasets import IGNORE_INDEX, SegmentationClass

NAMES = ('a "b",<i>ü.png', "草地/№ 2 <script>alert(3)</script>.jpg", f"{'very-long-name-' * 9}.png")
"""Of the first images; the others are numbered."""
IMAGES_SHOWN = 3
HEIGHT, WIDTH = 48, 64

Labels = NDArray[np.uint8]


def reported_run(path: Path) -> RunFolder:
    """A run with every state, its diagnosis, and its report."""
    run = full_run(path)
    add_diagnosis(run)
    build_report(run)
    return run


def add_diagnosis(run: RunFolder, *, images: int = 8, missing: Mapping[str, str] | None = None) -> Diagnosis:
    """Diagnose the models of the run's front and keep their pictures.

    The last class is nowhere, and the one before it nowhere in the predictions.

    Args:
        run: a run with completed trials.
        images: in the validation set.
        missing: ``trial_id`` of the models that could not predict to the reason.
    """
    record, missing = read_record(run), missing or {}
    generator = np.random.default_rng(0)
    number = len(record.class_names)
    truth = _truth(generator, images, number)
    order = [row[columns.TRIAL_ID] for row in record.front_rows if row[columns.TRIAL_ID] not in missing]
    seen = {trial: _prediction(generator, truth, number, rank) for rank, trial in enumerate(order)}
    diagnosis = Diagnosis(
        classes=tuple(record.class_names),
        image_names=(NAMES + tuple(f"{index:04d}.png" for index in range(images)))[:images],
        members={trial: diagnosed(trial, truth, predicted, number) for trial, predicted in seen.items()},
        missing=missing,
        boundary_width_px=2,
        size_limits_px=(10.24, 92.16),
    )
    write_diagnosis(run, diagnosis)
    _write_gallery(run, diagnosis, [_known(entry) for entry in record.data["classes"]], truth, seen)
    return diagnosis


def diagnosed(trial: str, truth: Labels, predicted: Labels, number: int) -> ModelDiagnosis:
    """What the pixels say; boundary IoU and IoU by size are made up from the IoU of the class.

    Args:
        trial: of the model.
        truth: classes (N, h, w), or ``IGNORE_INDEX``.
        predicted: classes (N, h, w).
        number: of classes.
    """
    matrices = np.stack([_confusion(*pair, number) for pair in zip(truth, predicted, strict=True)])
    counts = [matrices.diagonal(axis1=1, axis2=2), matrices.sum(axis=1), matrices.sum(axis=2)]
    intersection, prediction, true = (part.sum(axis=0) for part in counts)
    union = prediction + true - intersection
    iou = np.divide(intersection, union, out=np.full(number, np.nan), where=union > 0)
    objects = np.outer(np.minimum(true, 9), (1, 0, 2)).astype(np.int64)
    size_iou = np.where(objects > 0, np.outer(iou, (0.3, 0.6, 1)), np.nan)
    return ModelDiagnosis(trial, matrices.sum(axis=0), np.stack(counts, axis=-1), 0.4 * iou, size_iou, objects)


def _known(entry: Mapping[str, Any]) -> SegmentationClass:
    red, green, blue = (value % 256 for value in entry["color"])  # run_samples counts on beyond 255
    return SegmentationClass(entry["name"], (red, green, blue))


def _confusion(truth: Labels, predicted: Labels, number: int) -> NDArray[np.int64]:
    counted = truth != IGNORE_INDEX
    pairs = truth[counted].astype(np.int64) * number + predicted[counted]
    return np.bincount(pairs, minlength=number**2).reshape(number, number)


def _truth(generator: np.random.Generator, images: int, number: int) -> Labels:
    """Blocks of all classes but the last, in a frame that does not count."""
    blocks = generator.integers(number - 1, size=(images, HEIGHT // 8, WIDTH // 8))
    truth = blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    truth[:, :2], truth[:, -2:] = IGNORE_INDEX, IGNORE_INDEX
    return truth


def _prediction(generator: np.random.Generator, truth: Labels, number: int, rank: int) -> Labels:
    """The truth with pixels given to the next class, the more the lower the rank; never the last two classes."""
    wrong = generator.random(truth.shape) < 0.3 / (rank + 1)
    shifted = np.where(wrong, truth + 1, truth) % number
    return np.where(shifted >= number - 2, 0, shifted).astype(np.uint8)


def _write_gallery(
    run: RunFolder,
    diagnosis: Diagnosis,
    classes: Sequence[SegmentationClass],
    truth: Labels,
    seen: Mapping[str, Labels],
) -> None:
    common = tuple(range(min(IMAGES_SHOWN, len(truth))))
    shown = {
        trial: tuple(sorted({*common, *(found.image for found in examples(diagnosis.members[trial]))}))
        for trial in seen
    }
    gallery = Gallery(
        folder=run.gallery,
        names={index: diagnosis.image_names[index] for index in common},
        classes=tuple(classes),
        ignored_color=(128, 128, 128),
        shown=shown,
        missing=diagnosis.missing,
    )
    for index in set(common).union(*shown.values()):
        gray = np.where(truth[index] == IGNORE_INDEX, 0, 30 * truth[index] + 20).astype(np.uint8)
        _save(gallery, IMAGES, index, Image.fromarray(gray).convert("RGB"))
        _save(gallery, TRUTH, index, _mask(gallery, truth[index]))
    for trial, images in shown.items():
        for index in images:
            _save(gallery, trial, index, _mask(gallery, seen[trial][index]))
    write_index(gallery)


def _mask(gallery: Gallery, labels: Labels) -> Image.Image:
    palette = np.full((256, 3), gallery.ignored_color, np.uint8)
    palette[: len(gallery.classes)] = [item.color for item in gallery.classes]
    mask = Image.fromarray(labels)
    mask.putpalette(palette.ravel().tolist())
    return mask


def _save(gallery: Gallery, kind: str, index: int, picture: Image.Image) -> None:
    path = gallery.file(kind, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
