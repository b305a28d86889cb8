"""Made-up runs for the tests of the report, written through the tables and the layout of a real one."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from search import columns
from search.repeats import repeat_id
from search.results import Table
from search.run_folder import RunFolder
from trainers.config import ModelConfig, OptimizerConfig, TrainingConfig, TrialConfig

START = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
CLASSES = ("background", "building", "vehicle, small", "<script>alert(1)</script>", "草地 ünïcode", 'a "pool"')
PARAMETERS: Mapping[str, pa.DataType] = {
    "model.architecture": pa.string(),
    "model.size": pa.string(),
    "model.base_channels": pa.int64(),
    "model.backbone": pa.string(),
    "model.aspp": pa.bool_(),
    "loss.class_weights": pa.string(),
    "optimizer.lr": pa.float64(),
    "training.batch_size": pa.int64(),
}
REFERENCES = ({"label": "all <b>background</b>", "miou": 0.094}, {"label": "untrained model", "miou": 0.081})
MOBILENET = "mobilenet_v3_small"
PROFILES: Sequence[tuple[dict[str, Any], float, float, int]] = (
    ({"model.architecture": "unet", "model.size": "small", "model.base_channels": 16}, 5.1, 1.03, 256_000),
    ({"model.architecture": "unet", "model.size": "medium", "model.base_channels": 64}, 62.0, 30.8, 7_702_485),
    ({"model.architecture": "deeplab", "model.backbone": "resnet18", "model.aspp": True}, 14.2, 51.9, 12_980_000),
    ({"model.architecture": "deeplab", "model.backbone": "resnet18", "model.aspp": False}, 11.7, 45.0, 11_250_000),
    ({"model.architecture": "deeplab", "model.backbone": MOBILENET, "model.aspp": True}, 4.3, 6.9, 1_730_000),
    ({"model.architecture": "deeplab", "model.backbone": "vgg11_bn", "model.aspp": True}, 95.5, 40.2, 10_050_000),
)
EPOCHS = 9


@dataclass
class Sample:
    """A run being written."""

    folder: RunFolder
    classes: Sequence[str]
    trials: Table
    epochs: Table
    architectures: Table
    random: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def columns(self) -> list[str]:
        """Columns of ``trials``."""
        names: list[str] = columns.trials_schema(PARAMETERS, self.classes).names
        return names

    @property
    def run(self) -> RunFolder:
        """The run, with all rows so far on disk."""
        for table in (self.trials, self.epochs, self.architectures):
            table.flush()
        return self.folder


def begin_run(path: Path, *, classes: Sequence[str] = CLASSES, **data: Any) -> Sample:
    """A run that has started and drawn nothing yet."""
    run = RunFolder(path)
    path.mkdir(parents=True)
    run.config.write_text("num_trials: 40\nseed: 3\nsampler: {name: tpe}\nscheduler: {name: asha}\n")
    run.write_data(
        {
            "name": "scenes",
            "question": "Which <em>model</em> is worth its milliseconds & why?",
            "classes": [{"name": name, "color": [40 * i, 200 - 30 * i, 90]} for i, name in enumerate(classes)],
            "num_train": 1280,
            "num_val": 160,
            "height": 96,
            "width": 128,
            "notes": ["2 pairs left out: <img src=x onerror=alert(2)>.png"],
            "parameters": list(PARAMETERS),
            "references": list(REFERENCES),
            "constraints": {"latency_ms": 80.0, "size_mb": None},
        }
        | data
    )
    return Sample(
        run,
        classes,
        Table(run.results / "trials", columns.trials_schema(PARAMETERS, classes)),
        Table(run.results / "epochs", columns.epochs_schema(classes)),
        Table(run.results / "architectures", columns.architectures_schema()),
    )


def config_of(profile: Mapping[str, Any], lr: float) -> TrialConfig:
    """The configuration of a trial that drew this architecture."""
    model = ModelConfig(**{path.removeprefix("model."): value for path, value in profile.items()})
    return TrialConfig(model=model, optimizer=OptimizerConfig(lr=lr), training=TrainingConfig(epochs=EPOCHS))


def add_architectures(sample: Sample) -> None:
    """Profile the architectures; the last one breaks the latency limit."""
    for profile, latency_ms, size_mb, params in PROFILES:
        feasible = latency_ms <= 80
        sample.architectures.append(
            {
                columns.ARCHITECTURE: json.dumps(config_of(profile, 1e-3).model.identity()),
                columns.LATENCY_MS: latency_ms,
                columns.LATENCY_P95_MS: latency_ms * 1.2,
                columns.LATENCY_SPREAD: 0.034,
                columns.SIZE_MB: size_mb,
                columns.PARAMS: params,
                columns.MACS: params * 900,
                columns.BATCH: 1,
                columns.HEIGHT: 96,
                columns.WIDTH: 128,
                columns.FEASIBLE: feasible,
                columns.REASON: None if feasible else f"latency_ms {latency_ms} > 80",
                columns.DEVICE: "cpu",
                columns.DEVICE_NAME: "A <processor> of 2 cores",
                columns.PRECISION: "fp32",
                columns.TRAIN_PRECISION: "bf16",
                columns.TORCH_VERSION: "2.15.0",
            }
        )


def add_epochs(sample: Sample, trial: str, number: int, top: float) -> list[dict[str, Any]]:
    """Epochs 1 to ``number`` of a learning curve that ends near ``top``."""
    rows = []
    for epoch in range(1, number + 1):
        miou = max(0.0, top * (1 - math.exp(-0.5 * epoch)) + sample.random.gauss(0, 0.012))
        row = {
            columns.TRIAL_ID: trial,
            columns.EPOCH: epoch,
            columns.REPORTED_AT: START + timedelta(seconds=20 * epoch),
            columns.MIOU: miou,
            columns.MIOU_FOREGROUND: miou * 0.9,
            columns.PIXEL_ACCURACY: min(1.0, miou + 0.25),
            columns.MEAN_CLASS_ACCURACY: miou + 0.05,
            columns.TRAIN_LOSS: 2 * math.exp(-0.3 * epoch) + 0.3,
            columns.TRAIN_MIOU: min(1.0, miou + 0.04),
            columns.TRAIN_PIXEL_ACCURACY: min(1.0, miou + 0.28),
            columns.TRAIN_MEAN_CLASS_ACCURACY: min(1.0, miou + 0.09),
            columns.VAL_LOSS: 2 * math.exp(-0.25 * epoch) + 0.4,
            columns.LR: 1e-3,
            columns.EPOCH_TIME_S: 18.0,
            columns.TRAIN_TIME_S: 18.0 * epoch,
            columns.IMAGES_PER_S: 71.0,
        }
        spread = {columns.iou_column(name): max(0.0, miou - 0.08 * index) for index, name in enumerate(sample.classes)}
        spread[columns.iou_column(sample.classes[-1])] = math.nan
        rows.append(row | spread)
        sample.epochs.append(rows[-1])
    return rows


def add_trial(
    sample: Sample,
    index: int,
    state: str,
    profile_index: int,
    *,
    epochs: int,
    top: float = 0.5,
    repeat: int = 0,
    **values: Any,
) -> str:
    """One trial with its epochs; ``values`` replace columns. Returns its id."""
    configuration = f"t{index:04d}"
    trial = repeat_id(configuration, repeat)
    profile = PROFILES[profile_index][0]
    lr = 10 ** sample.random.uniform(-3.5, -2)
    config = config_of(profile, lr)
    curve = add_epochs(sample, trial, epochs, top)
    best = max(curve, key=lambda row: row[columns.MIOU], default={})
    kept = {name: value for name, value in best.items() if name in sample.columns}
    if state == columns.INTERRUPTED:  # the report reads no other trial's file
        (sample.folder.trials / trial).mkdir(parents=True)
        config.save(sample.folder.trials / trial / "config.yaml")
        return trial
    row = kept | profile | _costs(*PROFILES[profile_index][1:]) | _settings(config) | _times(index, epochs)
    row |= {
        columns.TRIAL_ID: trial,
        columns.CONFIGURATION: configuration,
        columns.REPEAT: repeat,
        columns.STATE: state,
        columns.EPOCH: epochs,
        columns.BEST_EPOCH: best.get(columns.EPOCH),
        columns.SEED: index,
        "loss.class_weights": sample.random.choice(["none", "inverse_frequency"]),
    }
    sample.trials.append(row | values)
    return trial


def _costs(latency_ms: float, size_mb: float, params: int) -> dict[str, Any]:
    latencies = {columns.LATENCY_MS: latency_ms, columns.LATENCY_P95_MS: 1.2 * latency_ms}
    sizes = {columns.SIZE_MB: size_mb, columns.PARAMS: params, columns.MACS: params * 900}
    return latencies | sizes | {columns.LATENCY_CPU_MS: latency_ms, columns.DEVICE: "cpu"}


def _settings(config: TrialConfig) -> dict[str, Any]:
    return {
        columns.EPOCHS: EPOCHS,
        "optimizer.lr": config.optimizer.lr,
        "training.batch_size": 8,
        columns.ARCHITECTURE: json.dumps(config.model.identity()),
        columns.CONFIG: json.dumps(config.to_dict()),
    }


def _times(index: int, epochs: int) -> dict[str, Any]:
    started = START + timedelta(minutes=index)
    trained = {columns.TRAIN_TIME_S: 18.0 * epochs if epochs else None}
    return trained | {columns.STARTED_AT: started, columns.ENDED_AT: started + timedelta(minutes=3)}


def full_run(path: Path) -> RunFolder:
    """A run with every state, conditional parameters, missing values and names that are not harmless."""
    sample = begin_run(path)
    add_architectures(sample)
    tops = (0.44, 0.58, 0.655, 0.64, 0.52)
    for index in range(15):
        shift = 0.03 * (index // 5)
        add_trial(sample, index, columns.COMPLETED, index % 5, epochs=EPOCHS, top=tops[index % 5] - shift)
    for index in range(15, 24):
        reason = "stopped at a rung: not among the best third"
        add_trial(sample, index, columns.STOPPED, index % 5, epochs=1 + 2 * (index % 2), top=0.3, reason=reason)
    add_trial(sample, 24, columns.INFEASIBLE, 5, epochs=0, reason="latency_ms 95.5 > 80")
    failure = 'RuntimeError: "boom" </script><script>document.title = "owned"</script>, second line\nof the reason'
    add_trial(sample, 25, columns.FAILED, 2, epochs=2, top=0.2, reason=failure)
    add_trial(sample, 26, columns.COMPLETED, 0, epochs=EPOCHS, top=0.4, miou=math.nan)
    add_trial(sample, 27, columns.INTERRUPTED, 1, epochs=4, top=0.5)
    orphan = add_trial(sample, 28, columns.INTERRUPTED, 2, epochs=2, top=0.5)
    (sample.folder.trials / orphan / "config.yaml").unlink()
    return sample.run


COMPARED: dict[str, Any] = {
    "question": "Does <em>ASPP</em> help & do weights?",
    "compare": ["model.aspp", "loss.class_weights", ["model.architecture", "model.backbone"], "optimizer.lr"],
    "parameters": {
        "model.architecture": {"values": ["unet", "deeplab"]},
        "model.size": {"values": ["small"], "when": {"model.architecture": "unet"}},
        "model.base_channels": {"values": [16], "when": {"model.architecture": "unet"}},
        "model.backbone": {"values": ["resnet18", MOBILENET], "when": {"model.architecture": "deeplab"}},
        "model.aspp": {"values": [False, True], "when": {"model.architecture": "deeplab"}},
        "loss.class_weights": {"values": ["none", "<i>median & frequency</i>"]},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "training.batch_size": {"values": [8, 16]},
    },
}
"""A space with factors that help, do not, or cannot be compared."""
REACHED = {0: 0.4, 2: 0.55, 3: 0.55, 4: 0.6}
"""Profile to its mean mIoU there: ASPP makes no difference."""
WEIGHTS_GAIN = 0.06


def compared_run(path: Path) -> RunFolder:
    """A grid of the space :data:`COMPARED` under three seeds: ASPP does nothing, weights lift one class off zero."""
    sample = begin_run(path, question=COMPARED["question"])
    with sample.folder.config.open("a") as stream:
        stream.write(f"space_name: compared\nspace: {json.dumps(COMPARED)}\n")
    add_architectures(sample)
    weights = COMPARED["parameters"]["loss.class_weights"]["values"]
    grid = itertools.product(REACHED, weights, (8, 16))
    for index, (profile, weighting, batch_size) in enumerate(grid):
        for repeat in range(3):
            drawn = {"loss.class_weights": weighting, "training.batch_size": batch_size, "optimizer.lr": 1e-3}
            gain = WEIGHTS_GAIN * (weighting != "none")
            miou = REACHED[profile] + gain + 0.02 * repeat + sample.random.gauss(0, 0.012)
            lifted = {columns.iou_column(CLASSES[2]): 0.0 if weighting == "none" else 0.07}
            measured = {columns.MIOU: miou, columns.SEED: 3 + repeat}
            everything = drawn | lifted | measured
            add_trial(sample, index, columns.COMPLETED, profile, epochs=3, top=miou, repeat=repeat, **everything)
    add_trial(sample, 16, columns.STOPPED, 2, epochs=1, top=0.9, miou=0.9, seed=3)
    return sample.run
