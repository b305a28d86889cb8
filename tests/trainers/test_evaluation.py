"""Metrics against confusion matrices counted by hand."""

import numpy as np
import pytest
import torch

from trainers.evaluation import (
    ConfusionMatrix,
    SegmentationMetrics,
    constant_prediction_metrics,
    count_values,
    count_without_waiting,
)


def metrics_of(prediction: list[list[int]], target: list[list[int]], num_classes: int) -> SegmentationMetrics:
    matrix = ConfusionMatrix(num_classes, "cpu")
    matrix.update(torch.tensor([prediction]), torch.tensor([target]))
    return matrix.compute()


def test_metrics_by_hand() -> None:
    metrics = metrics_of([[0, 0, 1], [1, 2, 1]], [[0, 1, 1], [1, 2, 255]], num_classes=4)
    assert metrics.confusion.tolist() == [[1, 0, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert metrics.confusion.dtype == np.int64
    np.testing.assert_array_equal(metrics.iou, [1 / 2, 2 / 3, 1, np.nan])
    assert metrics.miou == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert metrics.miou_foreground == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.pixel_accuracy == pytest.approx(4 / 5)
    assert metrics.mean_class_accuracy == pytest.approx((1 + 2 / 3 + 1) / 3)


def test_a_class_only_predicted_counts_in_miou_but_not_in_class_accuracy() -> None:
    metrics = metrics_of([[0, 1]], [[0, 0]], num_classes=3)
    np.testing.assert_array_equal(metrics.iou, [1 / 2, 0, np.nan])
    assert metrics.miou == pytest.approx(1 / 4)
    assert metrics.miou_foreground == 0
    assert metrics.mean_class_accuracy == pytest.approx(1 / 2)


def test_miou_is_of_the_whole_set_and_not_a_mean_over_batches() -> None:
    matrix = ConfusionMatrix(2, "cpu")
    matrix.update(torch.tensor([[[0, 0]]]), torch.tensor([[[0, 0]]]))
    matrix.update(torch.tensor([[[1, 0]]]), torch.tensor([[[1, 1]]]))
    metrics = matrix.compute()
    assert metrics.confusion.tolist() == [[2, 0], [1, 1]]
    assert metrics.miou == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_everything_ignored_gives_zeros_and_no_nan() -> None:
    metrics = metrics_of([[0, 1]], [[255, 255]], num_classes=2)
    assert metrics.confusion.sum() == 0
    summary = (metrics.miou, metrics.miou_foreground, metrics.pixel_accuracy, metrics.mean_class_accuracy)
    assert summary == (0, 0, 0, 0)


def test_random_predictions_match_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 5, (3, 7, 9), generator=generator)
    target = torch.randint(0, 6, (3, 7, 9), generator=generator)
    target[target == 5] = 255
    matrix = ConfusionMatrix(5, "cpu")
    matrix.update(prediction, target)
    expected = np.zeros((5, 5), dtype=np.int64)
    for predicted, label in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        if label != 255:
            expected[label, predicted] += 1
    np.testing.assert_array_equal(matrix.compute().confusion, expected)


def test_computed_metrics_do_not_change_with_later_batches() -> None:
    matrix = ConfusionMatrix(2, "cpu")
    matrix.update(torch.tensor([[[0]]]), torch.tensor([[[0]]]))
    before = matrix.compute()
    matrix.update(torch.tensor([[[0]]]), torch.tensor([[[1]]]))
    assert before.confusion.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("prediction", [0, 2])
def test_a_label_beyond_the_classes_is_refused(prediction: int) -> None:
    with pytest.raises(ValueError, match="below 3 or 255"):
        metrics_of([[prediction]], [[3]], num_classes=3)


def test_a_gpu_counts_the_same_without_waiting() -> None:
    rows = torch.randint(0, 7, (3, 130), generator=torch.Generator().manual_seed(0))
    assert torch.equal(count_without_waiting(rows, 11), count_values(rows, 11))


def test_constant_prediction() -> None:
    pixels = np.array([60, 30, 0, 10], dtype=np.int64)
    metrics = constant_prediction_metrics(pixels, 0)
    assert metrics.pixel_accuracy == pytest.approx(0.6)
    assert metrics.miou == pytest.approx(0.6 / 3)
    assert metrics.mean_class_accuracy == pytest.approx(1 / 3)
    np.testing.assert_array_equal(metrics.iou, [0.6, 0, np.nan, 0])
