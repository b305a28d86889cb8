"""Class weights against their formulas in many digits, and at their limits."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.class_weights import class_weights
from trainers.config import LossConfig
from trainers.datasets import ClassCounts, SegmentationClass, SegmentationData, Split
from trainers.settings import ConfigError

PIXELS = np.array([900, 100, 0, 25], dtype=np.int64)
WEIGHTINGS = ("inverse_frequency", "median_frequency", "effective_number")


def weights_of(pixels: NDArray[np.int64], image_pixels: NDArray[np.int64] | None = None, **settings: Any) -> Any:
    everywhere = np.full(len(pixels), pixels.sum())
    counts = ClassCounts(pixels, everywhere if image_pixels is None else image_pixels)
    return class_weights(LossConfig(**settings), counts)


def test_no_weights_are_one_for_every_class() -> None:
    np.testing.assert_array_equal(weights_of(PIXELS, class_weights="none"), np.ones(4))
    np.testing.assert_array_equal(weights_of(0 * PIXELS, class_weights="none"), np.ones(4))


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_mean_one_over_the_present_zero_for_the_absent_and_more_for_the_rare(weighting: str, exponent: float) -> None:
    weights = weights_of(PIXELS, class_weights=weighting, weight_exponent=exponent, effective_beta=0.99)
    assert weights[2] == 0
    assert weights[[0, 1, 3]].mean() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[3]


def test_inverse_frequency_is_one_over_the_pixels() -> None:
    weights = weights_of(PIXELS, class_weights="inverse_frequency")
    np.testing.assert_allclose(weights[[0, 1, 3]] * [900, 100, 25], weights[0] * 900)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_half_the_exponent_is_the_square_root_up_to_scale(weighting: str) -> None:
    whole = weights_of(PIXELS, class_weights=weighting)[[0, 1, 3]]
    half = weights_of(PIXELS, class_weights=weighting, weight_exponent=0.5)[[0, 1, 3]]
    np.testing.assert_allclose(half / half[0], np.sqrt(whole / whole[0]))


def test_median_frequency_is_relative_to_the_images_that_show_the_class() -> None:
    shown, image_pixels = np.array([10, 3, 0, 2]), np.array([6 + 5, 6 + 4, 0, 4])
    frequency = shown[[0, 1, 3]] / np.array([11, 10, 4])
    expected = np.median(frequency) / frequency
    weights = weights_of(shown, image_pixels, class_weights="median_frequency")
    np.testing.assert_allclose(weights, np.insert(expected / expected.mean(), 2, 0))
    assert not np.allclose(weights, weights_of(shown, image_pixels, class_weights="inverse_frequency"))


def test_median_frequency_with_every_class_in_every_image_is_inverse_frequency() -> None:
    inverse = weights_of(PIXELS, class_weights="inverse_frequency")
    np.testing.assert_allclose(weights_of(PIXELS, class_weights="median_frequency"), inverse)


def test_counts_of_the_training_masks_leave_ignored_pixels_out() -> None:
    masks = np.array([[[0, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 255]], [[3, 1, 1], [3, 255, 255]]], dtype=np.uint8)
    train = Split(np.zeros((3, 2, 3, 3), np.uint8), masks, ("a", "b", "c"))
    classes = tuple(SegmentationClass(name, (0, 0, 0)) for name in "wxyz")
    counts = SegmentationData("three", train, train, classes, ()).class_counts()
    np.testing.assert_array_equal(counts.pixels, [10, 3, 0, 2])
    np.testing.assert_array_equal(counts.image_pixels, [6 + 5, 6 + 4, 0, 4])


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999, 0.999999, 1 - 2**-40, float(np.nextafter(1, 0))])
@pytest.mark.parametrize("pixels", [[1, 2, 3], [7, 10**6, 10**12], [10**12 - 1, 10**12, 10**12 + 1]])
def test_effective_number_in_many_digits(pixels: list[int], beta: float) -> None:
    with localcontext() as context:
        context.prec = 60
        exact = [(1 - Decimal(beta)) / (1 - Decimal(beta) ** n) for n in pixels]
        mean = sum(exact, Decimal(0)) / len(exact)
        expected = [float(weight / mean) for weight in exact]
    with np.errstate(divide="raise", invalid="raise"):
        weights = weights_of(np.array(pixels), class_weights="effective_number", effective_beta=beta)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_extreme_counts_give_finite_positive_weights(weighting: str) -> None:
    pixels = np.array([10**12, 1, 0], dtype=np.int64)
    weights = weights_of(pixels, class_weights=weighting, weight_exponent=2, effective_beta=0.9999999999)
    assert np.isfinite(weights).all()
    assert (weights[:2].astype(np.float32) > 0).all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_single_class_weighs_one(weighting: str) -> None:
    np.testing.assert_allclose(weights_of(np.array([0, 17]), class_weights=weighting), [0, 1])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_no_labelled_pixel_is_refused_with_the_setting(weighting: str) -> None:
    with pytest.raises(ConfigError, match=rf"loss\.class_weights={weighting} needs labelled training pixels"):
        weights_of(0 * PIXELS, class_weights=weighting)
