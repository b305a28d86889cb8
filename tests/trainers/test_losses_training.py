"""Trials of one epoch with every loss, and the numbers of data and models that are degenerate."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainers.choices import CLASS_WEIGHTS, LOSSES
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.loop import Trial, evaluate, train

TERMS = {"cross_entropy": 0.5, "focal": 1.5, "dice": 1.0, "lovasz": 2.0, "hinge": 0.25}
TINY = TrialConfig().replace(
    {
        "data.height": 32,
        "data.width": 32,
        "data.max_images": 8,
        "model.size": "small",
        "model.base_channels": 2,
        "training.epochs": 1,
        "training.batch_size": 4,
        "training.precision": "fp32",
        "training.device": "cpu",
    }
)


@pytest.fixture(scope="module")
def data() -> SegmentationData:
    return open_dataset(TINY.data)


@pytest.mark.parametrize(
    ("name", "class_weights"),
    [*zip(LOSSES, (*CLASS_WEIGHTS, "none", "effective_number"), strict=True), ("sum", "inverse_frequency")],
)
def test_an_epoch_with_every_loss(name: str, class_weights: str, data: SegmentationData, tmp_path: Path) -> None:
    terms = {f"loss.terms.{term}": factor for term, factor in TERMS.items()}
    config = TINY.replace({"loss.name": name, "loss.class_weights": class_weights} | terms)
    (result,) = train(config, data, tmp_path)
    assert math.isfinite(result.train_loss)
    assert math.isfinite(result.val_loss)
    assert result.train_loss > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_validation_set_of_ignored_pixels_gives_defined_numbers(name: str, data: SegmentationData) -> None:
    blank = dataclasses.replace(data.val, masks=np.full_like(data.val.masks, 255))
    trial = Trial(TINY.replace({"loss.name": name}), dataclasses.replace(data, val=blank))
    val_loss, metrics = evaluate(trial, trial.data.val)
    summary = (metrics.miou, metrics.miou_foreground, metrics.pixel_accuracy, metrics.mean_class_accuracy)
    assert (val_loss, *summary) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_model_that_predicts_one_class_has_a_finite_loss_and_defined_metrics(
    name: str, data: SegmentationData
) -> None:
    trial = Trial(TINY.replace({"loss.name": name, "loss.class_weights": "inverse_frequency"}), data)
    last = [module for module in trial.model.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[1] = 1e4
    val_loss, metrics = evaluate(trial, data.val)
    shares = metrics.confusion.sum(axis=1) / metrics.confusion.sum()
    assert math.isfinite(val_loss)
    assert val_loss > 0
    assert (metrics.confusion.sum(axis=0) > 0).tolist() == [index == 1 for index in range(data.num_classes)]
    assert metrics.pixel_accuracy == pytest.approx(shares[1])
    assert metrics.miou == pytest.approx(shares[1] / (shares > 0).sum())
    assert metrics.mean_class_accuracy == pytest.approx(1 / (shares > 0).sum())
