"""The diagnosis of a run: how each model of the Pareto front fails on the validation set.

::

    diagnosis/confusion.parquet    trial_id, truth, prediction, pixels: the cells of the confusion matrices
    diagnosis/images.parquet       trial_id, image, class, intersection, predicted, truth: pixels
    diagnosis/classes.parquet      trial_id, class, boundary_iou, and for each object size <size>_iou, <size>_objects
    diagnosis/diagnosis.json       the names behind the indices of images and classes, and what else applies to all

Rows that would hold only zeros are left out. :mod:`trainers.diagnosis` says how the figures are defined.
Reading needs neither torch nor Ray; :mod:`search.front_diagnosis` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search.columns import TRIAL_ID
from search.files import replaced_folder, write_atomically, write_text_atomically
from search.run_folder import RunError, RunFolder

VERSION = 1
"""Of ``diagnosis.json``; raised when readers need other content than before."""
INDEX = "diagnosis.json"
SIZES = ("small", "medium", "large")
"""Of objects, in the order of the size axes."""
BEST, WORST = "best", "worst"
"""Kinds of examples."""
_COUNTS = ("intersection", "predicted", "truth")


@dataclass(frozen=True, eq=False)
class ModelDiagnosis:
    """How one model of the front fails on the validation set. C classes, N validation images."""

    trial_id: str
    confusion: NDArray[np.int64]
    """(C, C) pixels; rows are the truth, columns the prediction."""
    image_classes: NDArray[np.int64]
    """(N, C, 3) pixels: intersection, predicted, truth."""
    boundary_iou: NDArray[np.float64]
    """(C,), NaN where the class is absent."""
    size_iou: NDArray[np.float64]
    """(C, 3) IoU of small, medium and large objects; NaN where there is none."""
    size_objects: NDArray[np.int64]
    """(C, 3) objects in the truth."""

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """(C,) IoU over the whole validation set, NaN for a class in neither prediction nor truth."""
        return class_iou(self.confusion.diagonal(), self.confusion.sum(axis=0), self.confusion.sum(axis=1))

    @cached_property
    def image_iou(self) -> NDArray[np.float64]:
        """(N, C) IoU in each image, NaN for a class in neither its prediction nor its truth."""
        intersection, predicted, truth = np.moveaxis(self.image_classes, -1, 0)
        return class_iou(intersection, predicted, truth)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """How the models of the front fail."""

    classes: tuple[str, ...]
    image_names: tuple[str, ...]
    """Of all N validation images."""
    members: Mapping[str, ModelDiagnosis]
    """By ``trial_id``, in the order of the front."""
    missing: Mapping[str, str]
    """``trial_id`` of the other models of the front to why they could not predict."""
    boundary_width_px: int
    """How far from a contour pixels count for boundary IoU."""
    size_limits_px: tuple[float, float]
    """Area of an object below the first: small; below the second: medium; else large."""


@dataclass(frozen=True)
class Example:
    """The validation image in which a model does best or worst on a class."""

    class_index: int
    kind: str
    """:data:`BEST` or :data:`WORST`."""
    image: int
    """Its position in the validation set."""
    iou: float
    """Of the class in this image."""


def class_iou(
    intersection: NDArray[np.int64], predicted: NDArray[np.int64], truth: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``intersection / (predicted + truth - intersection)`` of pixel counts, NaN where the union is empty."""
    union = predicted + truth - intersection
    quotient = np.full(union.shape, np.nan)
    np.divide(intersection, union, out=quotient, where=union > 0)
    return quotient


def examples(model: ModelDiagnosis) -> tuple[Example, ...]:
    """Per class of the truth the validation images with its highest and its lowest IoU, among those that show it.

    By class, the best before the worst. Of equals the first image is the best, and the last the worst, so that they
    differ wherever two images show the class; a class that only one image shows has its best alone.
    """
    return find_examples(model.image_classes)


def find_examples(image_classes: NDArray[np.int64]) -> tuple[Example, ...]:
    """:func:`examples` from :attr:`ModelDiagnosis.image_classes` alone.

    Images that are all zeros have not come yet: an image that is an example in the end is one as soon as it comes.
    """
    return tuple(
        example for index in range(image_classes.shape[1]) for example in _of_class(image_classes[:, index], index)
    )


def _of_class(counts: NDArray[np.int64], class_index: int) -> Iterator[Example]:
    shown = np.flatnonzero(counts[:, _COUNTS.index("truth")])
    if not len(shown):
        return
    intersection, predicted, truth = counts[shown].T
    ious = class_iou(intersection, predicted, truth)
    best, worst = int(ious.argmax()), len(ious) - 1 - int(ious[::-1].argmin())
    yield Example(class_index, BEST, int(shown[best]), float(ious[best]))
    if best != worst:
        yield Example(class_index, WORST, int(shown[worst]), float(ious[worst]))


def write_diagnosis(run: RunFolder, diagnosis: Diagnosis) -> None:
    """Replace the run's diagnosis: all files of it, or none.

    Raises:
        ValueError: an array that has not the shape of these classes and images.
        OSError: the run's folder cannot be written; an old diagnosis is left as it was.
    """
    for model in diagnosis.members.values():
        _check_shapes(model, len(diagnosis.classes), len(diagnosis.image_names))
    content = {
        "version": VERSION,
        "classes": list(diagnosis.classes),
        "images": list(diagnosis.image_names),
        "members": [{"trial_id": trial} for trial in diagnosis.members],
        "missing": [{"trial_id": trial, "reason": reason} for trial, reason in diagnosis.missing.items()],
        "boundary_width_px": diagnosis.boundary_width_px,
        "size_limits_px": list(diagnosis.size_limits_px),
    }
    with replaced_folder(run.diagnosis) as folder:
        for name, make in (("confusion", _confusion), ("images", _images), ("classes", _classes)):
            _write_table(folder / f"{name}.parquet", [make(model) for model in diagnosis.members.values()])
        write_text_atomically(folder / INDEX, json.dumps(content, indent=1))


def read_diagnosis(run: RunFolder) -> Diagnosis | None:
    """The diagnosis of a run, or none where none was written.

    Raises:
        RunError: a file of it cannot be read, or it is of another version.
    """
    path = run.diagnosis / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise RunError(f"{path} has version {version!r}; this segmentation-search reads {VERSION}.")
    try:
        return _diagnosis(run.diagnosis, content)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"The diagnosis in {run.diagnosis} cannot be read: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RunError(f"{run.diagnosis} is not a diagnosis: {error!r}.") from error


def _check_shapes(model: ModelDiagnosis, classes: int, images: int) -> None:
    wanted = {
        "confusion": (classes, classes),
        "image_classes": (images, classes, len(_COUNTS)),
        "boundary_iou": (classes,),
        "size_iou": (classes, len(SIZES)),
        "size_objects": (classes, len(SIZES)),
    }
    for name, shape in wanted.items():
        found = getattr(model, name).shape
        if found != shape:
            raise ValueError(f"{name} of {model.trial_id} has shape {found}; these classes and images make it {shape}.")


def _confusion(model: ModelDiagnosis) -> pa.Table:
    truth, prediction = model.confusion.nonzero()
    columns = {"truth": truth, "prediction": prediction, "pixels": model.confusion[truth, prediction]}
    return _table(model, columns)


def _images(model: ModelDiagnosis) -> pa.Table:
    image, class_index = np.nonzero(model.image_classes.any(axis=-1))
    counts = dict(zip(_COUNTS, model.image_classes[image, class_index].T, strict=True))
    return _table(model, {"image": image, "class": class_index} | counts)


def _classes(model: ModelDiagnosis) -> pa.Table:
    columns: dict[str, NDArray[Any]] = {"class": np.arange(len(model.boundary_iou)), "boundary_iou": model.boundary_iou}
    for size, iou, objects in zip(SIZES, model.size_iou.T, model.size_objects.T, strict=True):
        columns |= {f"{size}_iou": iou, f"{size}_objects": objects}
    return _table(model, columns)


def _table(model: ModelDiagnosis, columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """The columns behind the model's id, with null for NaN."""
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    length = len(next(iter(columns.values())))
    return pa.table({TRIAL_ID: pa.array([model.trial_id] * length, pa.string())} | arrays)


def _write_table(path: Path, parts: Sequence[pa.Table]) -> None:
    table = pa.concat_tables(parts) if parts else pa.table({})
    write_atomically(path, lambda stream: pq.write_table(table, stream))


def _diagnosis(folder: Path, content: Mapping[str, Any]) -> Diagnosis:
    classes, images = tuple(content["classes"]), tuple(content["images"])
    trials = [entry["trial_id"] for entry in content["members"]]
    first, second = content["size_limits_px"]
    return Diagnosis(
        classes=classes,
        image_names=images,
        members=_read_members(folder, trials, len(classes), len(images)) if trials else {},
        missing={entry["trial_id"]: entry["reason"] for entry in content["missing"]},
        boundary_width_px=content["boundary_width_px"],
        size_limits_px=(first, second),
    )


def _read_members(folder: Path, trials: Sequence[str], classes: int, images: int) -> dict[str, ModelDiagnosis]:
    confusion = _dense(folder, "confusion", trials, {"truth": classes, "prediction": classes}, ["pixels"])
    counts = _dense(folder, "images", trials, {"image": images, "class": classes}, _COUNTS)
    objects = _dense(folder, "classes", trials, {"class": classes}, [f"{size}_objects" for size in SIZES])
    ious = _dense(folder, "classes", trials, {"class": classes}, ["boundary_iou", *(f"{size}_iou" for size in SIZES)])
    return {
        trial: ModelDiagnosis(
            trial_id=trial,
            confusion=confusion[row, ..., 0].astype(np.int64),
            image_classes=counts[row].astype(np.int64),
            boundary_iou=ious[row, :, 0],
            size_iou=ious[row, :, 1:],
            size_objects=objects[row].astype(np.int64),
        )
        for row, trial in enumerate(trials)
    }


def _dense(
    folder: Path, name: str, trials: Sequence[str], axes: Mapping[str, int], values: Sequence[str]
) -> NDArray[np.float64]:
    """A table as an array of shape (trials, *axes, values), zero where it has no row and NaN where it has null.

    Pixel counts are exact: they stay below 2^53.
    """
    table = pq.read_table(folder / f"{name}.parquet", columns=[TRIAL_ID, *axes, *values])
    dense = np.zeros((len(trials), *axes.values(), len(values)))
    members = table.column(TRIAL_ID).combine_chunks().dictionary_encode()
    places = np.array([trials.index(trial) for trial in members.dictionary.to_pylist()], np.intp)
    cells = places[members.indices.to_numpy()], *(table.column(axis).to_numpy() for axis in axes)
    rows = np.ravel_multi_index(cells, dense.shape[:-1])
    flat = dense.reshape(-1, len(values))
    for column, value in enumerate(values):
        flat[rows, column] = table.column(value).to_numpy()
    return dense
