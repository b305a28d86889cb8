"""Models to export without training them: random weights, and batch norm that has seen some images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.datasets import SegmentationClass, SegmentationData, Split
from trainers.exporting.export import TrainedModel
from trainers.models import build_model

CLASSES = (
    SegmentationClass("<b>dark</b> | $x$", (10, 20, 30)),
    SegmentationClass("Straße, 草地", (200, 200, 0)),
    SegmentationClass("${oc.env:HOME} {width}", (255, 255, 255)),
)
HEIGHT, WIDTH = 64, 96


def made_up_data(height: int = HEIGHT, width: int = WIDTH, images: int = 5) -> SegmentationData:
    """Noise with random classes; a frame of two pixels does not count."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(images, height, width, 3)).astype(np.uint8)
    masks = generator.integers(3, size=(images, height, width)).astype(np.uint8)
    masks[:, :2], masks[:, -2:], masks[:, :, :2], masks[:, :, -2:] = (255,) * 4
    split = Split(pixels, masks, tuple(f"{index}.png" for index in range(images)))
    return SegmentationData("made up", split, split, CLASSES, ())


def configuration(height: int = HEIGHT, width: int = WIDTH, **model: Any) -> TrialConfig:
    """A trial with these model settings."""
    settings = {"data.height": height, "data.width": width, "training.precision": "fp32"}
    return TrialConfig().replace(settings | {f"model.{name}": value for name, value in model.items()})


def untrained(config: TrialConfig, folder: Path, **values: Any) -> TrainedModel:
    """A model of ``config`` with its checkpoint in ``folder``; ``values`` replace what its card says."""
    torch.manual_seed(0)
    model = build_model(config.model, len(CLASSES)).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 3, max(64, config.data.height), max(64, config.data.width)))
    classes = [{"name": item.name, "color": list(item.color)} for item in CLASSES]
    checkpoints = Checkpoints(folder)
    checkpoints.save_best({"model": model.state_dict(), "config": config.to_dict(), "classes": classes})
    about: dict[str, Any] = {
        "run": "a <run>",
        "trial": "t0003",
        "metrics": {"miou": 0.5, "miou_foreground": 0.4, "pixel_accuracy": 0.7, "mean_class_accuracy": float("nan")},
        "iou": dict(zip((item.name for item in CLASSES), (0.5, 0.25, None), strict=True)),
        "costs": {"params": 1234567, "macs": 89, "size_mb": 4.9},
        "latency": [],
        "data": {"name": "made up", "num_train": 5, "num_val": 5, "notes": ["2 pairs left out: <a>.png"]},
        "notes": [],
    }
    return TrainedModel(config=config, checkpoint=checkpoints.best, **about | values)
