"""How a model fails, in words: its weakest class, its confusions, and what contours and small objects add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.diagnosis import SIZES, ModelDiagnosis

MOST_CONFUSIONS = 10
LEAST_CONFUSION = 0.01
"""Share of a class below which a confusion is not worth a sentence."""
FAR_BELOW = 0.5
"""A boundary IoU below this part of the IoU, or an IoU of small objects below this part of that of larger ones, is
said to be part of the weakness."""
LEAST_OBJECTS = 5
"""Objects of a size without which their IoU says little."""
_NAMED = 3
"""Classes named before the rest is counted."""


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class that were predicted as another one (indices of classes)."""

    truth: int
    prediction: int
    pixels: int
    share: float
    """Of all pixels of the true class."""
    share_of_errors: float
    """Of all wrong pixels."""


def confusions(matrix: NDArray[np.int64]) -> list[Confusion]:
    """All that occur in a (C, C) confusion matrix with the truth in its rows, the largest share of a class first."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    cells = np.argwhere(wrong)
    pixels = wrong[wrong > 0]
    of_class = pixels / matrix.sum(axis=1)[cells[:, 0]]
    of_errors = pixels / wrong.sum()
    rows = zip(cells.tolist(), pixels.tolist(), of_class.tolist(), of_errors.tolist(), strict=True)
    found = [Confusion(truth, prediction, *counts) for (truth, prediction), *counts in rows]
    return sorted(found, key=lambda confusion: (-confusion.share, -confusion.pixels))


def confusion_sentences(classes: Sequence[str], matrix: NDArray[np.int64]) -> list[str]:
    """The largest confusions, one sentence each."""
    worth = [confusion for confusion in confusions(matrix) if confusion.share >= LEAST_CONFUSION]
    return [
        f"{_said(classes, confusion)}: {confusion.pixels:,} pixels, {percent(confusion.share_of_errors)} of all that "
        "are wrong."
        for confusion in worth[:MOST_CONFUSIONS]
    ]


def weakest_classes(ious: Mapping[int, float]) -> list[int]:
    """The classes with the lowest IoU; more than one only where they are equal."""
    lowest = min(ious.values(), default=None)
    return [index for index, value in ious.items() if value == lowest]


def weakness(classes: Sequence[str], model: ModelDiagnosis) -> str:
    """Where the model is weakest and what the figures show of the reason."""
    known = {index: float(value) for index, value in enumerate(model.iou) if np.isfinite(value)}
    weakest = weakest_classes(known)
    if not weakest:
        return "No pixel of the validation set counts, so there is no IoU."
    named = listed([classes[index] for index in weakest])
    lead = "Weakest class" if len(weakest) == 1 else "Weakest classes"
    parts = [f"{lead}: {named}, IoU {known[weakest[0]]:.2f}{' each' if len(weakest) > 1 else ''}."]
    largest = next(iter(confusions(model.confusion)), None)
    parts.append(f"Largest confusion: {_said(classes, largest)}." if largest else "No pixel is wrong.")
    if len(weakest) == 1 and largest:
        parts += _errors(classes, model.confusion, weakest[0], said=largest.truth == weakest[0])
        parts += _where(model, weakest[0])
    return " ".join(parts)


def listed(names: Sequence[str]) -> str:
    """A few names in one phrase, the others counted."""
    shown, rest = list(names[:_NAMED]), len(names) - _NAMED
    last = f"{rest} more" if rest > 0 else shown.pop()
    return f"{', '.join(shown)} and {last}" if shown else last


def percent(share: float) -> str:
    """A share as people write it: ``14 %``, ``1.4 %``."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{share:.0%}".replace("%", " %") if share == 0 or share >= 0.0995 else f"{share:.1%}".replace("%", " %")


def _said(classes: Sequence[str], confusion: Confusion) -> str:
    return f"{percent(confusion.share)} of {classes[confusion.truth]} read as {classes[confusion.prediction]}"


def _errors(classes: Sequence[str], matrix: NDArray[np.int64], index: int, said: bool) -> Iterator[str]:
    """Whether the class is rather missed or rather seen where it is not; ``said`` when what it is read as was."""
    missed, invented = matrix[index].copy(), matrix[:, index].copy()
    missed[index] = invented[index] = 0
    if invented.sum() > missed.sum():
        share, mostly = invented.sum() / matrix[:, index].sum(), classes[int(invented.argmax())]
        yield f"Of what it reads as {classes[index]}, {percent(share)} is something else, above all {mostly}."
    elif not said:
        share, mostly = missed.sum() / matrix[index].sum(), classes[int(missed.argmax())]
        yield f"Of {classes[index]}, {percent(share)} is missed and above all read as {mostly}."


def _where(model: ModelDiagnosis, index: int) -> Iterator[str]:
    """Whether the class is far weaker along its contours or in its small objects."""
    iou, boundary = model.iou[index], model.boundary_iou[index]
    if boundary < FAR_BELOW * iou:
        yield f"Its contours are far worse than its areas: boundary IoU {boundary:.2f}."
    # What holds against medium objects but not against large ones is no matter of size.
    enough = [size for size in range(len(SIZES)) if model.size_objects[index, size] >= LEAST_OBJECTS]
    small, larger = model.size_iou[index, 0], model.size_iou[index, enough[-1]] if enough else np.nan
    if 0 in enough and small < FAR_BELOW * larger:
        few, count = model.size_objects[index, 0], model.size_objects[index, enough[-1]]
        yield (
            f"Its small objects are the harder ones: IoU {small:.2f} over {few:,} small, {larger:.2f} over "
            f"{count:,} {SIZES[enough[-1]]} ones."
        )
