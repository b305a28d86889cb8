"""How a model fails: figures of hand-made images with known answers, and the same by other ways of computing them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from trainers.config import TrialConfig
from trainers.datasets import IGNORE_INDEX, open_dataset
from trainers.diagnosis import (
    ErrorCounter,
    SegmentationErrors,
    boundary_width_px,
    size_counts,
    size_limits_px,
)
from trainers.evaluation import ConfusionMatrix, SegmentationMetrics
from trainers.loop import train
from trainers.prediction import predict

HEIGHT, WIDTH = 48, 64
"""A hundredth of the area of COCO's images: objects are small below 10.24 and large from 92.16 pixels on."""


pytestmark = pytest.mark.usefixtures("one_thread")


def blank(*squares: tuple[int, int, int], label: int = 1) -> NDArray[np.uint8]:
    """Class 0 with squares of ``label``: (top, left, side)."""
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for top, left, side in squares:
        image[top : top + side, left : left + side] = label
    return image


def errors_of(*pairs: tuple[NDArray[np.uint8], NDArray[np.uint8]], num_classes: int = 2) -> SegmentationErrors:
    """Of images as (prediction, truth)."""
    predictions, masks = (np.stack(images) for images in zip(*pairs, strict=True))
    counter = ErrorCounter(num_classes, *masks.shape)
    counter.update(predictions, masks)
    return counter.compute()


def blobs(seed: int, images: int = 3, num_classes: int = 5) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Predictions and masks of random regions, some of which are ignored; the last class occurs nowhere."""
    generator = np.random.default_rng(seed)
    shape = (images, num_classes - 1, HEIGHT, WIDTH)
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), (0, 0, 4, 4))
    rough = smooth + ndimage.gaussian_filter(generator.normal(size=shape), (0, 0, 1.5, 1.5)) * 0.2
    masks = smooth.argmax(1).astype(np.uint8)
    masks[ndimage.gaussian_filter(generator.normal(size=masks.shape), (0, 3, 3)) > 0.1] = IGNORE_INDEX
    return rough.argmax(1).astype(np.uint8), masks


def test_counts_are_those_of_the_evaluation() -> None:
    predictions, masks = blobs(0)
    assert (masks == IGNORE_INDEX).any()
    expected = ConfusionMatrix(5, "cpu")
    expected.update(torch.from_numpy(predictions.astype(np.int64)), torch.from_numpy(masks.astype(np.int64)))
    counter = ErrorCounter(5, *masks.shape)
    counter.update(predictions[:2], masks[:2])
    assert not counter.image_classes[2].any()
    counter.update(predictions[2:], masks[2:])
    errors = counter.compute()
    np.testing.assert_array_equal(errors.confusion, expected.compute().confusion)
    total = errors.image_classes.sum(axis=0)
    np.testing.assert_array_equal(total[:, 0], errors.confusion.diagonal())
    np.testing.assert_array_equal(total[:, 1], errors.confusion.sum(axis=0))
    np.testing.assert_array_equal(total[:, 2], errors.confusion.sum(axis=1))
    for counts, prediction, truth in zip(errors.image_classes, predictions, masks, strict=True):
        labelled = truth != IGNORE_INDEX
        expected_counts = [
            [((prediction == c) & (truth == c)).sum(), ((prediction == c) & labelled).sum(), (truth == c).sum()]
            for c in range(5)
        ]
        np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.parametrize(("prediction", "truth"), [(0, 2), (2, 0), (0, 254), (255, 0)])
def test_a_class_out_of_range_is_refused(prediction: int, truth: int) -> None:
    with pytest.raises(ValueError, match=r"Labels must be below 2 or 255 \(ignored\)\."):
        errors_of((np.full((4, 4), prediction, np.uint8), np.full((4, 4), truth, np.uint8)))


def test_a_square_that_is_one_pixel_off_is_worse_along_its_contour() -> None:
    truth, shifted = blank((10, 10, 6)), blank((10, 11, 6))
    errors = errors_of((shifted, truth))
    np.testing.assert_array_equal(errors.image_classes[0, 1], [30, 36, 36])
    # In an image this large the rims are two pixels wide: 32 each, all but their inner 2 x 2. Of the 30 pixels that
    # the squares share, 2 x 3 are inner ones of either.
    assert boundary_width_px(HEIGHT, WIDTH) == 2
    assert errors.boundary_iou[1] == pytest.approx(24 / 40)
    # In one half as wide and high they are one pixel wide, 20 each, and share 5 of the upper and of the lower edge.
    assert boundary_width_px(HEIGHT // 2, WIDTH // 2) == 1
    corner = slice(HEIGHT // 2), slice(WIDTH // 2)
    assert errors_of((shifted[corner], truth[corner])).boundary_iou[1] == pytest.approx(10 / 30)


def reference_band(region: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    """The paper's inner boundary region of one class, by erosion."""
    interior: NDArray[np.bool_] = ndimage.binary_erosion(region, np.ones((3, 3)), iterations=width_px, border_value=0)
    return region & ~interior


def test_boundary_iou_is_what_eroding_each_class_gives() -> None:
    predictions, masks = blobs(1)
    counts = np.zeros((5, 2), np.int64)
    for prediction, truth in zip(predictions, masks, strict=True):
        labelled = truth != IGNORE_INDEX
        for index in range(5):
            bands = [reference_band(region, 2) for region in ((prediction == index) & labelled, truth == index)]
            counts[index] += (bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum()
    errors = errors_of(*zip(predictions, masks, strict=True), num_classes=5)
    np.testing.assert_allclose(errors.boundary_iou[:4], counts[:4, 0] / counts[:4, 1], rtol=1e-12)
    assert np.isnan(errors.boundary_iou[4])
    assert (errors.boundary_iou[:4] > 0.05).all()
    assert (errors.boundary_iou[:4] < 0.95).all()


@pytest.mark.parametrize(("height", "width", "expected"), [(8, 8, 1), (96, 128, 3), (512, 512, 14), (1024, 2048, 46)])
def test_the_band_is_two_percent_of_the_diagonal(height: int, width: int, expected: int) -> None:
    assert boundary_width_px(height, width) == expected


def test_what_is_predicted_in_ignored_pixels_changes_nothing() -> None:
    predictions, masks = blobs(2)
    noise = np.random.default_rng(0).integers(5, size=masks.shape, dtype=np.uint8)
    before = errors_of(*zip(predictions, masks, strict=True), num_classes=5)
    elsewhere = np.where(masks == IGNORE_INDEX, noise, predictions)
    after = errors_of(*zip(elsewhere, masks, strict=True), num_classes=5)
    for name, values in vars(before).items():
        np.testing.assert_array_equal(values, getattr(after, name))


def test_an_object_in_an_unlabelled_rim_has_a_contour() -> None:
    truth = blank((8, 8, 14), label=IGNORE_INDEX)
    truth[10:20, 10:20] = 1
    right, missed = blank((9, 9, 12)), blank()
    assert errors_of((right, truth)).boundary_iou.tolist() == [1.0, 1.0]
    assert errors_of((missed, truth)).boundary_iou[1] == 0.0


def test_a_set_without_a_labelled_pixel_has_no_figures() -> None:
    errors = errors_of((blank(), np.full((HEIGHT, WIDTH), IGNORE_INDEX, np.uint8)))
    assert errors.confusion.sum() == errors.image_classes.sum() == errors.size_objects.sum() == 0
    assert np.isnan(errors.boundary_iou).all()
    assert np.isnan(errors.size_iou).all()


def test_classes_that_are_absent_and_classes_that_are_only_predicted() -> None:
    errors = errors_of((blank((5, 5, 8), label=2), blank((5, 5, 8))), num_classes=4)
    np.testing.assert_array_equal(errors.boundary_iou, [1.0, 0.0, 0.0, np.nan])
    nothing = [np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(errors.size_iou, [[np.nan, np.nan, 1.0], [np.nan, 0.0, np.nan], nothing, nothing])
    np.testing.assert_array_equal(errors.size_objects, [[0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_a_small_object_is_missed_and_a_large_one_found_in_half() -> None:
    small, medium, large = (4, 4, 3), (4, 20, 5), (20, 20, 10)
    prediction = blank(medium, large)
    prediction[25:30, 20:30] = 0  # the lower half of the large one
    prediction[9, 20:25] = 1  # too long below the medium one
    prediction[4, 10] = 1  # alone, nearer to the small one
    errors = errors_of((prediction, blank(small, medium, large)))
    np.testing.assert_allclose(errors.size_iou[1], [0 / (9 + 1), 25 / (25 + 5), 50 / 100])
    np.testing.assert_array_equal(errors.size_objects[1], [1, 1, 1])
    assert errors.image_classes[0, 1].tolist() == [75, 81, 134]


def test_false_positives_where_the_truth_has_no_such_object_have_no_size() -> None:
    truth = blank((4, 4, 5))
    alone, joined = errors_of((truth, truth)), errors_of((truth, truth), (blank((30, 30, 4)), blank()))
    np.testing.assert_array_equal(joined.size_iou[1], alone.size_iou[1])
    assert joined.image_classes[1, 1].tolist() == [0, 16, 0]
    assert joined.boundary_iou[1] < alone.boundary_iou[1] == 1.0


def test_sizes_of_objects_over_several_images_add_up() -> None:
    pairs = [(blank((4, 4, 3)), blank((4, 4, 3), (20, 20, 2))), (blank(), blank((9, 9, 3)))]
    errors = errors_of(*pairs)
    np.testing.assert_array_equal(errors.size_objects[1], [3, 0, 0])
    np.testing.assert_allclose(errors.size_iou[1], [9 / (9 + 4 + 9), np.nan, np.nan])


def test_objects_that_touch_at_a_corner_are_one() -> None:
    truth = blank((4, 4, 3), (7, 7, 3), (20, 20, 3))
    _, objects = size_counts(truth, truth, 2, size_limits_px(HEIGHT, WIDTH))
    np.testing.assert_array_equal(objects[1], [1, 1, 0])


def test_sizes_are_cocos_in_an_image_of_cocos_size() -> None:
    assert size_limits_px(480, 640) == (1024, 9216)
    assert size_limits_px(HEIGHT, WIDTH) == pytest.approx((10.24, 92.16))
    truth = np.zeros((20, 300), np.uint8)
    for top, area in ((1, 15), (4, 16), (7, 255), (10, 256)):
        truth[top, 1 : 1 + area] = 1
    _, objects = size_counts(truth, truth, 2, (16, 256))
    np.testing.assert_array_equal(objects[1], [1, 2, 1])


def test_the_errors_of_a_trials_model_have_the_miou_that_was_recorded(tmp_path: Path) -> None:
    config = TrialConfig().replace(
        {
            "data.height": 32,
            "data.width": 48,
            "data.max_images": 7,
            "data.cache": str(tmp_path),
            "model.size": "small",
            "model.base_channels": 4,
            "training.epochs": 2,
            "training.batch_size": 3,
            "training.precision": "fp32",
            "training.device": "cpu",
        }
    )
    data = open_dataset(config.data)
    results = list(train(config, data, tmp_path / "trial"))
    batches = list(predict(config, tmp_path / "trial" / "best.pt", data, torch.device("cpu")))
    predictions = np.concatenate(batches)
    counter = ErrorCounter(data.num_classes, *data.val.masks.shape)
    counter.update(predictions, data.val.masks)
    best = max(results, key=lambda result: result.miou)
    assert SegmentationMetrics(counter.compute().confusion).miou == pytest.approx(best.miou, abs=1e-12)
