"""Which places on a front could be luck, on cases made by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from search import columns
from search.diagnosis import Diagnosis, ModelDiagnosis
from search.luck import (
    HOLDS,
    IMAGES,
    LUCK,
    SEEDS,
    UNKNOWN,
    Place,
    assess,
    bootstrap_weights,
    resampled_mious,
    welch_interval,
)
from search.objectives import Row
from trainers.evaluation import SegmentationMetrics

SPREAD = {"a": 0.1, "b": 0.1}
Counts = NDArray[np.int64]


def member(trial: str, miou: float, latency_ms: float, size_mb: float = 5.0, **values: Any) -> Row:
    row = {columns.TRIAL_ID: trial, columns.STATE: columns.COMPLETED, columns.MIOU: miou, columns.SIZE_MB: size_mb}
    row |= {columns.LATENCY_MS: latency_ms, columns.ARCHITECTURE: "a"}
    return row | {columns.REPEATS: 1, columns.MIOU_STD: None} | values


def repeated(trial: str, values: Sequence[float], latency_ms: float, size_mb: float = 5.0) -> Row:
    spread = {columns.REPEATS: len(values), columns.MIOU_STD: float(np.std(values, ddof=1))}
    return member(trial, float(np.mean(values)), latency_ms, size_mb, **spread)


def architectures(spreads: Mapping[str, float | None]) -> list[Row]:
    return [{columns.ARCHITECTURE: name, columns.LATENCY_SPREAD: spread} for name, spread in spreads.items()]


def counts(hits: NDArray[np.float64], pixels: int = 1000) -> Counts:
    """Per-image counts of two classes of ``pixels`` each, of which the share ``hits`` (N,) is right."""
    right = np.rint(hits * pixels).astype(np.int64)
    both = np.stack([right, np.full_like(right, pixels), np.full_like(right, pixels)], axis=-1)
    return np.stack([both, both], axis=1)


def diagnosis(members: Mapping[str, Counts]) -> Diagnosis:
    def model(trial: str, image_classes: Counts) -> ModelDiagnosis:
        nothing = np.zeros((2, 2), np.int64), np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3), np.int64)
        return ModelDiagnosis(trial, nothing[0], image_classes, *nothing[1:])

    images = len(next(iter(members.values())))
    names = tuple(map(str, range(images)))
    return Diagnosis(("x", "y"), names, {name: model(name, each) for name, each in members.items()}, {}, 1, (1.0, 2.0))


def judged(
    rows: Sequence[Row], seen: Diagnosis | None = None, others: Sequence[Row] = (), spreads: Any = SPREAD
) -> dict[str, Place]:
    return assess(rows, [*rows, *others], architectures(spreads), seen)


def test_size_is_exact_and_a_clear_lead_in_latency_holds() -> None:
    small, fast = member("small", 0.5, 10, 4.99), member("fast", 0.5001, 5, 5.0)
    places = judged([fast, small])
    assert [place.verdict for place in places.values()] == [HOLDS, HOLDS]


@pytest.mark.parametrize(("gap_ms", "verdict"), [(0.9, LUCK), (1.2, HOLDS)])
def test_latency_counts_beyond_the_middle_halves(gap_ms: float, verdict: str) -> None:
    """With a spread of 0.1 the halves of two measurements near 10 ms reach 0.5 ms each."""
    faster, better = member("faster", 0.5, 10 - gap_ms), member("better", 0.9, 10, 4.0)
    place = judged([faster, better])["faster"]
    assert place.verdict == verdict
    if verdict == LUCK:
        assert [doubt.rival for doubt in place.doubts] == ["better"]
        assert place.doubts[0].margins == pytest.approx({columns.LATENCY_MS: gap_ms})
        assert place.doubts[0].miou is None


@pytest.mark.parametrize("spreads", [{}, {"a": None}, {"a": math.nan}])
def test_latency_of_unknown_spread_is_not_assessed(spreads: dict[str, float | None]) -> None:
    place = judged([member("faster", 0.5, 9.9), member("better", 0.9, 10, 4.0)], spreads=spreads)["faster"]
    assert (place.verdict, place.unknown, place.interval) == (UNKNOWN, ("better",), None)


def test_a_lead_in_miou_without_evidence_is_not_assessed() -> None:
    better, smaller = member("better", 0.6, 10), member("smaller", 0.3, 10, 1.0)
    places = judged([better, smaller])
    assert (places["better"].verdict, places["better"].unknown) == (UNKNOWN, ("smaller",))
    assert places["smaller"].verdict == HOLDS


def test_equals_share_a_place() -> None:
    places = judged([member("one", 0.5, 10), member("two", 0.5, 10)])
    assert {place.verdict for place in places.values()} == {HOLDS}


def test_images_tell_a_tie_from_a_clear_lead() -> None:
    generator = np.random.default_rng(2)
    base = generator.uniform(0.3, 0.7, 200)
    noise = generator.normal(0, 0.02, 200)
    hits = {"tied": base + noise, "base": base, "ahead": base + 0.05}
    seen = diagnosis({name: counts(each) for name, each in hits.items()})

    def row(name: str, size_mb: float) -> Row:
        return member(name, SegmentationMetrics(_pooled(seen.members[name].image_classes)).miou, 10, size_mb)

    rows = [row("base", 1.0), row("tied", 2.0), row("ahead", 3.0)]
    rows[1][columns.MIOU] = rows[0][columns.MIOU] + 1e-4
    places = judged(rows, seen)
    assert [place.verdict for place in places.values()] == [HOLDS, LUCK, HOLDS]
    (doubt,) = places["tied"].doubts
    assert doubt.rival == "base"
    assert doubt.miou is not None
    assert doubt.miou.basis == IMAGES
    assert doubt.miou.low < 0 < doubt.miou.high
    interval = places["ahead"].interval
    assert interval is not None
    assert interval.low < rows[2][columns.MIOU] < interval.high


def _pooled(image_classes: Counts) -> Counts:
    """A confusion matrix of two classes from their counts."""
    (right, *_), (other, *_) = image_classes.sum(axis=0)
    wrong = image_classes[..., 2].sum(axis=0) - [right, other]
    return np.array([[right, wrong[0]], [wrong[1], other]])


def test_one_image_is_no_evidence() -> None:
    seen = diagnosis({"better": counts(np.array([0.6])), "smaller": counts(np.array([0.3]))})
    places = judged([member("better", 0.6, 10), member("smaller", 0.3, 10, 1.0)], seen)
    assert (places["better"].verdict, places["better"].interval) == (UNKNOWN, None)


def test_a_member_that_was_not_diagnosed_is_not_assessed() -> None:
    seen = diagnosis({"smaller": counts(np.linspace(0.1, 0.5, 50))})
    places = judged([member("better", 0.6, 10), member("smaller", 0.3, 10, 1.0)], seen)
    assert (places["better"].verdict, places["better"].interval) == (UNKNOWN, None)
    assert places["smaller"].interval is not None


def test_repeats_are_compared_by_welch() -> None:
    ahead, close, small = [0.70, 0.71, 0.72], [0.601, 0.62, 0.65], [0.60, 0.61, 0.63]
    rows = [repeated("small", small, 10, 1.0), repeated("close", close, 10, 2.0), repeated("ahead", ahead, 10, 3.0)]
    places = judged(rows)
    assert [place.verdict for place in places.values()] == [HOLDS, LUCK, HOLDS]
    (doubt,) = places["close"].doubts
    assert doubt.miou is not None
    assert doubt.miou.basis == SEEDS
    expected = stats.ttest_ind(close, small, equal_var=False).confidence_interval()
    assert (doubt.miou.low, doubt.miou.high) == pytest.approx((expected.low, expected.high))
    interval = places["ahead"].interval
    assert interval is not None
    mean = stats.t.interval(0.95, 2, loc=np.mean(ahead), scale=stats.sem(ahead))
    assert (interval.low, interval.high) == pytest.approx(mean)
    assert interval.basis == SEEDS


def test_repeats_off_the_front_are_rivals_too() -> None:
    front = [repeated("ahead", [0.60, 0.66, 0.63], 10)]
    behind, far = repeated("behind", [0.59, 0.65, 0.62], 10), repeated("far", [0.1, 0.11, 0.12], 10)
    once, stopped = member("once", 0.62, 10), behind | {columns.TRIAL_ID: "stopped", columns.STATE: columns.STOPPED}
    unusable = behind | {columns.TRIAL_ID: "unusable", columns.LATENCY_MS: None}
    place = judged(front, others=[behind, far, once, stopped, unusable])["ahead"]
    assert [doubt.rival for doubt in place.doubts] == ["behind"]
    assert place.unknown == ()


def test_seeds_that_do_not_differ_are_certain() -> None:
    rows = [repeated("better", [0.6, 0.6], 10, 2.0), repeated("smaller", [0.59, 0.59], 10, 1.0)]
    place = judged(rows)["better"]
    assert place.verdict == HOLDS
    assert place.interval is not None
    assert place.interval.low == place.interval.high == pytest.approx(0.6)


def test_welch_interval_for_many_pairs_at_once() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.5, 0.1, (7, 4)), generator.normal(0.4, 0.02, (7, 3))
    found = welch_interval(
        (first.mean(axis=1), second.mean(axis=1)),
        (first.std(axis=1, ddof=1), second.std(axis=1, ddof=1)),
        (np.full(7, 4.0), np.full(7, 3.0)),
    )
    expected: Any = stats.ttest_ind(first, second, equal_var=False, axis=1).confidence_interval()
    assert found == pytest.approx(np.stack([expected.low, expected.high]))


def test_resampled_miou_is_the_projects() -> None:
    """Classes in neither prediction nor truth of a sample are left out; without any class the mean is 0."""
    image_classes = np.array(
        [
            [[8, 10, 10], [0, 0, 0], [0, 0, 0]],
            [[2, 10, 5], [3, 3, 8], [0, 0, 0]],
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        ]
    )
    weights = np.array([[3, 0, 0], [1, 2, 0], [0, 0, 3]], dtype=np.float64)
    second = ((8 + 2 * 2) / (30 + 20 - 12), 6 / 16)
    assert resampled_mious(image_classes, weights) == pytest.approx([8 / 12, float(np.mean(second)), 0])


def test_classes_that_are_nowhere_raise_no_warning() -> None:
    nowhere = np.zeros((6, 2, 3), np.int64)
    rows = [member("better", 0.6, 10), member("smaller", 0.3, 10, 1.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        places = judged(rows, diagnosis({"better": nowhere, "smaller": nowhere}))
    interval = places["better"].interval
    assert interval is not None
    assert (interval.low, interval.high) == (0, 0)
    assert places["better"].verdict == LUCK


def test_an_empty_front_has_no_places() -> None:
    assert assess([], [], [], None) == {}


def test_the_same_images_give_the_same_weights() -> None:
    weights = bootstrap_weights(30)
    assert (weights.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(weights, bootstrap_weights(30))
    assert (weights != bootstrap_weights(30, seed=1)).any()


def test_bootstrap_interval_covers_about_as_often_as_it_says() -> None:
    """150 simulated validation sets of 120 images: a 95 % interval of the difference misses the truth rarely."""
    generator = np.random.default_rng(5)
    weights = bootstrap_weights(120)
    ratio = generator.uniform(0.2, 0.8, (2, 200_000))
    truth = float(np.subtract(*[share.mean() / (2 - share.mean()) for share in ratio]))
    covered = 0
    for _ in range(150):
        hits = generator.uniform(0.2, 0.8, (2, 120))
        drawn = [resampled_mious(counts(each), weights) for each in hits]
        low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
        covered += low <= truth <= high
    assert 0.89 <= covered / 150 <= 0.99
