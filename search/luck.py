"""How sure the mIoU of the front's members is, and which of their places on the front could be luck.

A member keeps its place against a rival that it beats in at least one objective by more than the noise. Size is exact.
A latency counts as better once the middle halves of the two measurements (median plus and minus half the interquartile
range) do not overlap. The noise of mIoU is taken from the seeds where both were trained under several (Welch, "The
generalization of Student's problem when several different population variances are involved", 1947), else from the
validation images, by a paired percentile bootstrap (Efron and Tibshirani, "An introduction to the bootstrap", 1993,
chapters 8 and 13). Resampled images say nothing of the seeds: what a model trained once owes to its seed stays hidden.
Each pair is judged on its own: nothing corrects for the number of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from search import columns
from search.comparisons import CONFIDENCE
from search.diagnosis import Diagnosis
from search.objectives import Row

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SEEDS, IMAGES = "seeds", "validation images"
"""What an interval is over."""
HOLDS, LUCK, UNKNOWN = "holds", "could be luck", "not assessed"
"""What can be said of a place on the front."""
RESAMPLES = 1_000
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_OBJECTIVES = tuple(columns.OBJECTIVES)
_MIOU, _LATENCY, _SIZE = map(_OBJECTIVES.index, (columns.MIOU, columns.LATENCY_MS, columns.SIZE_MB))


@dataclass(frozen=True)
class Interval:
    """At 95 %, in units of mIoU."""

    low: float
    high: float
    basis: str
    """:data:`SEEDS` or :data:`IMAGES`."""


@dataclass(frozen=True)
class Doubt:
    """A rival that a member beats in nothing beyond the noise."""

    rival: str
    """Its ``trial_id``."""
    margins: Mapping[str, float]
    """Objectives in which the member is measured as better, and by how much; there is at least one."""
    miou: Interval | None
    """Of the difference in mIoU, member minus rival; None where the member is not measured as better in it."""


@dataclass(frozen=True)
class Place:
    """One member of the front."""

    trial_id: str
    interval: Interval | None
    """Of its mIoU: of the mean over its seeds, else over validation images; None without evidence."""
    doubts: tuple[Doubt, ...]
    """The rivals that could take its place, the one of highest mIoU first."""
    unknown: tuple[str, ...]
    """Rivals that it beats only in objectives of which no noise is known."""

    @property
    def verdict(self) -> str:
        """:data:`LUCK`, else :data:`UNKNOWN`, else :data:`HOLDS`."""
        return LUCK if self.doubts else UNKNOWN if self.unknown else HOLDS


def assess(
    front: Sequence[Row], configurations: Iterable[Row], architectures: Iterable[Row], diagnosis: Diagnosis | None
) -> dict[str, Place]:
    """Judge every place of the front.

    Rivals are the other members, and every completed configuration off the front where it and the member ran under
    several seeds. A configuration that equals a member in all three objectives shares its place and is no rival.

    Args:
        front: the members' rows of :func:`search.repeats.configurations`; all three objectives are finite.
        configurations: all such rows of the search.
        architectures: the table ``architectures``, for the spread of each latency.
        diagnosis: what the members do in each validation image; None where no one looked.

    Returns:
        The places by ``trial_id``, in the order of ``front``.
    """
    members = {row[columns.TRIAL_ID] for row in front}
    others = [row for row in configurations if row[columns.TRIAL_ID] not in members and _repeated(row)]
    field = _Field([*front, *others], len(front), _spreads(architectures), diagnosis)
    return {row[columns.TRIAL_ID]: field.place(index) for index, row in enumerate(front)}


def resampled_mious(image_classes: NDArray[np.int64], weights: Floats) -> Floats:
    """The mIoU of resampled validation sets: counts are pooled, and classes in neither prediction nor truth left out.

    Args:
        image_classes: ``(N, C, 3)`` pixels of each image and class: intersection, predicted, truth.
        weights: ``(resamples, N)`` how often each image is drawn.

    Returns:
        ``(resamples,)``; 0 where no class is left, as in :mod:`trainers.evaluation`.
    """
    images, classes, _ = image_classes.shape
    pooled = (weights @ image_classes.reshape(images, -1).astype(np.float64)).reshape(-1, classes, 3)
    intersection, predicted, truth = np.moveaxis(pooled, -1, 0)
    union = predicted + truth - intersection
    present = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=present)
    mious: Floats = iou.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return mious


def bootstrap_weights(images: int, seed: int = 0) -> Floats:
    """``(RESAMPLES, images)``: how often each image is in each sample of as many images, drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(np.float64)


def welch_interval(means: tuple[Floats, Floats], stds: tuple[Floats, Floats], runs: tuple[Floats, Floats]) -> Floats:
    """Interval of the difference of two means, first minus second, without assuming equal variances.

    Args:
        means: of the two samples, broadcast against each other.
        stds: their sample standard deviations.
        runs: their sizes, at least 2.

    Returns:
        ``(2, ...)`` low and high at :data:`CONFIDENCE`; where nothing varies both are the difference itself.
    """
    first, second = (std**2 / number for std, number in zip(stds, runs, strict=True))
    variance = np.asarray(first + second)
    parts = np.asarray(first**2 / (runs[0] - 1) + second**2 / (runs[1] - 1))
    freedom = np.divide(variance**2, parts, out=np.ones_like(variance), where=parts > 0)
    half = stdtrit(freedom, _TAILS[1]) * np.sqrt(variance)
    difference = means[0] - means[1]
    return np.stack([difference - half, difference + half])


def _repeated(row: Row) -> bool:
    """Whether a completed configuration has a mean and a spread over seeds, and all objectives."""
    values = [row[columns.MIOU_STD], *(row[name] for name in _OBJECTIVES)]
    return row[columns.STATE] == columns.COMPLETED and all(
        value is not None and math.isfinite(value) for value in values
    )


def _measured(row: Row) -> tuple[str, bool]:
    """Architecture of a configuration, and whether its objective is the latency on a GPU."""
    return row[columns.ARCHITECTURE], row.get(columns.LATENCY_GPU_MS) is not None


def _spreads(architectures: Iterable[Row]) -> dict[tuple[str, bool], float]:
    """The interquartile range of each :func:`_measured` latency over its median; the largest of several."""
    spreads: dict[tuple[str, bool], float] = {}
    for row in architectures:
        key = row[columns.ARCHITECTURE], row.get(columns.DEVICE) == "cuda"
        spread = row[columns.LATENCY_SPREAD]
        if spread is not None and math.isfinite(spread):
            spreads[key] = max(spread, spreads.get(key, 0.0))
    return spreads


class _Field:
    """The members of the front, first, and their rivals off it, as arrays over all of them."""

    def __init__(
        self, rows: Sequence[Row], members: int, spreads: Mapping[tuple[str, bool], float], diagnosis: Diagnosis | None
    ) -> None:
        self.ids = [row[columns.TRIAL_ID] for row in rows]
        self.is_member = np.arange(len(rows)) < members
        self.values: Floats = np.array([[row[name] for name in _OBJECTIVES] for row in rows]).reshape(-1, 3)
        relative = np.array([spreads.get(_measured(row), math.nan) for row in rows])
        self.half_range_ms: Floats = relative * self.values[:, _LATENCY] / 2
        self.repeated: Flags = np.array([_repeated(row) for row in rows], dtype=bool)
        self.stds: Floats = np.array([row[columns.MIOU_STD] if _repeated(row) else math.nan for row in rows])
        self.runs: Floats = np.array([row[columns.REPEATS] for row in rows], dtype=np.float64)
        self._diagnosis = diagnosis

    @cached_property
    def draws(self) -> Floats:
        """``(rows, RESAMPLES)`` mIoU of the same resampled validation sets; NaN for rows without a diagnosis."""
        draws = np.full((len(self.ids), RESAMPLES), math.nan)
        images = len(self._diagnosis.image_names) if self._diagnosis else 0
        if self._diagnosis and images > 1:  # one image cannot tell how much images differ
            weights = bootstrap_weights(images)
            for index, trial in enumerate(self.ids):
                if trial in self._diagnosis.members:
                    draws[index] = resampled_mious(self._diagnosis.members[trial].image_classes, weights)
        return draws

    def place(self, index: int) -> Place:
        """Judge one member against all its rivals."""
        margins = (self.values - self.values[index]) * np.array([-1, 1, 1])
        better = margins > 0
        compared = better.any(axis=1) & (self.is_member | (self.repeated & self.repeated[index]))
        noise_ms = self.half_range_ms + self.half_range_ms[index]
        sure = better[:, _SIZE] | (better[:, _LATENCY] & (margins[:, _LATENCY] > noise_ms))
        low, high = self._differences(index, compared & better[:, _MIOU] & ~sure)
        sure |= better[:, _MIOU] & (low > 0)
        unknown = (better[:, _MIOU] & np.isnan(low)) | (better[:, _LATENCY] & np.isnan(noise_ms))
        doubted = np.flatnonzero(compared & ~sure & ~unknown)
        nearest = doubted[np.argsort(margins[doubted, _MIOU], kind="stable")]
        return Place(
            trial_id=self.ids[index],
            interval=self._interval(index),
            doubts=tuple(self._doubt(index, rival, margins[rival], (low[rival], high[rival])) for rival in nearest),
            unknown=tuple(self.ids[rival] for rival in np.flatnonzero(compared & ~sure & unknown)),
        )

    def _differences(self, index: int, wanted: Flags) -> tuple[Floats, Floats]:
        """Interval of the difference in mIoU to each rival that is wanted; NaN for the others and without evidence."""
        low, high = np.full((2, len(self.ids)), math.nan)
        by_seed = wanted & self.repeated & self.repeated[index]
        if by_seed.any():
            pairs = [(each[index], each[by_seed]) for each in (self.values[:, _MIOU], self.stds, self.runs)]
            low[by_seed], high[by_seed] = welch_interval(*pairs)
        by_image = wanted & ~by_seed
        if by_image.any():
            low[by_image], high[by_image] = np.quantile(self.draws[index] - self.draws[by_image], _TAILS, axis=1)
        return low, high

    def _doubt(self, index: int, rival: int, margins: Floats, difference: tuple[float, float]) -> Doubt:
        named = {name: float(margin) for name, margin in zip(_OBJECTIVES, margins, strict=True) if margin > 0}
        basis = SEEDS if self.repeated[index] and self.repeated[rival] else IMAGES
        interval = Interval(float(difference[0]), float(difference[1]), basis) if columns.MIOU in named else None
        return Doubt(self.ids[rival], named, interval)

    def _interval(self, index: int) -> Interval | None:
        """Of the mean over seeds (Student, "The probable error of a mean", 1908), else over validation images."""
        if self.repeated[index]:
            half = stdtrit(self.runs[index] - 1, _TAILS[1]) * self.stds[index] / math.sqrt(self.runs[index])
            middle = self.values[index, _MIOU]
            return Interval(float(middle - half), float(middle + half), SEEDS)
        low, high = np.quantile(self.draws[index], _TAILS)
        return None if math.isnan(low) else Interval(float(low), float(high), IMAGES)
