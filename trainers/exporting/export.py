"""Exporting a trained trial into a folder: model file, check, ``model.json``, model card, settings."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.batches import IMAGENET_MEAN, IMAGENET_STD
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, neutral_color
from trainers.exporting.card import card
from trainers.exporting.check import MAX_DIFFERENCE, MAX_MIOU_CHANGE, CheckResult, check_images, check_shapes
from trainers.exporting.description import (
    CARD,
    CONFIG,
    INDEX,
    VERSION,
    InputShape,
    ModelDescription,
    file_sha256,
)
from trainers.exporting.formats import write_model
from trainers.exporting.runners import open_file, open_model
from trainers.prediction import load_model

NOTED_MIOU_CHANGE = 0.005
"""From this difference on it is noted that the trained model does not reach here what the search recorded: half of the
point of mIoU that people choose models by."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained trial that is to be exported, and what its model card says of it. All values are plain."""

    run: str
    trial: str
    config: TrialConfig
    """As it was trained."""
    checkpoint: Path
    """Its ``best.pt``."""
    metrics: Mapping[str, Any]
    """Metric to recorded value over the whole validation set."""
    iou: Mapping[str, float | None]
    """Class to its recorded IoU; none where the class is in neither prediction nor truth."""
    costs: Mapping[str, Any]
    """``params``, ``macs`` and ``size_mb``."""
    latency: Sequence[Mapping[str, Any]]
    """One entry a measurement: ``latency_ms`` and ``latency_p95_ms`` with the conditions they hold for."""
    data: Mapping[str, Any]
    """``name``, ``num_train``, ``num_val`` and ``notes`` of the data set."""
    notes: Sequence[str]
    """What whoever uses the model must know, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came of an export."""

    description: ModelDescription
    check: CheckResult
    notes: Sequence[str]


def export_model(trained: TrainedModel, data: SegmentationData, folder: Path, kind: str) -> Exported:
    """Write a trained model as ``kind`` into the empty ``folder``, and check the file against the model.

    ``model.json``, without which a folder is no export, is written last.

    Raises:
        ExportError: the file cannot be written, or does not do as the trained model does.
        CheckpointError: the checkpoint is missing, or not of this trial and these classes.
        OSError: ``folder`` cannot be written.
    """
    model = load_model(trained.config, trained.checkpoint, data).eval()
    size = trained.config.data.height, trained.config.data.width
    draft = _draft(trained, data, kind)
    path = folder / draft.file
    shapes: list[list[int]] = []

    def verify(shape: InputShape) -> None:
        shapes[:] = check_shapes(open_file(path, draft, "cpu"), model, shape)

    shape = write_model(model, kind, path, size, verify)
    description = dataclasses.replace(draft, input=shape, sha256=file_sha256(path))
    check = check_images(open_model(folder, description), model, data.val, data.num_classes, shapes)
    notes = [*trained.notes, *_notes(trained, shape, check)]
    content = _content(trained, description, check, notes) | {"size_bytes": path.stat().st_size}
    content["versions"] = _versions(description, path)
    trained.config.save(folder / CONFIG)
    (folder / CARD).write_text(card(content), encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return Exported(description=description, check=check, notes=notes)


def _draft(trained: TrainedModel, data: SegmentationData, kind: str) -> ModelDescription:
    """The description of a file that is not there yet."""
    size = trained.config.data
    return ModelDescription(
        format=kind,
        sha256="",
        classes=data.classes,
        ignored_color=neutral_color(data.classes),
        input=InputShape(height=size.height, width=size.width, any_batch=False, any_size=False),
        config=trained.config.to_dict(),
        torch_version=importlib.metadata.version("torch"),
    )


def _notes(trained: TrainedModel, shape: InputShape, check: CheckResult) -> list[str]:
    notes = []
    recorded, whole = trained.metrics.get("miou"), check.images == check.val_images
    if whole and recorded is not None and abs(recorded - check.miou_before) > NOTED_MIOU_CHANGE:
        notes.append(
            f"The search recorded mIoU {recorded:.3f}; the trained model reaches {check.miou_before:.3f} here, in "
            "float32 on a CPU. Either its precision matters much, or the validation images are others now."
        )
    if trained.config.training.precision != "fp32":
        precision = trained.config.training.precision
        notes.append(
            f"The model was trained in {precision} and is exported in float32, so its predictions may differ from "
            "those of the search in pixels between two classes."
        )
    if shape.reason is not None:
        notes.append(f"The model takes {shape.describe()}: {shape.reason}.")
    return notes


def _content(
    trained: TrainedModel, description: ModelDescription, check: CheckResult, notes: Sequence[str]
) -> dict[str, Any]:
    """What ``model.json`` holds, but for what is read off the model file."""
    # The weights alone know nothing of pixels; the graphs begin with them.
    inside = description.format != "state_dict"
    normalisation = {"inside": inside, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    images = {"type": "uint8" if inside else "float32", "layout": "NCHW", "channels": "RGB"}
    limits = {"max_relative_difference": MAX_DIFFERENCE, "max_miou_change": MAX_MIOU_CHANGE}
    return {
        "version": VERSION,
        "format": description.format,
        "file": description.file,
        "sha256": description.sha256,
        "run": trained.run,
        "trial": trained.trial,
        "notes": list(notes),
        "classes": [{"name": item.name, "color": list(item.color)} for item in description.classes],
        "ignored_color": list(description.ignored_color),
        "input": images | {"normalisation": normalisation} | dataclasses.asdict(description.input),
        "output": {"type": "float32", "layout": "NCHW", "content": "logits"},
        "precision": {"trained": trained.config.training.precision, "exported": "fp32"},
        "data": dict(trained.data),
        "metrics": _finite(trained.metrics),
        "iou": _finite(trained.iou),
        "costs": _finite(trained.costs),
        "latency": [_finite(entry) for entry in trained.latency],
        "config": dict(description.config),
        "check": dataclasses.asdict(check) | limits,
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a value that is not defined is null."""
    undefined = {key for key, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
    return {key: None if key in undefined else value for key, value in values.items()}


def _versions(description: ModelDescription, path: Path) -> dict[str, Any]:
    versions: dict[str, Any] = {"torch": description.torch_version}
    if description.format == "onnx":
        import onnx  # noqa: PLC0415 - the other formats do without

        versions |= {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")}
        versions["opset"] = max(entry.version for entry in onnx.load(path).opset_import if not entry.domain)
    return versions
