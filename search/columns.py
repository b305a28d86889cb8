"""The columns of the Parquet tables in ``results/``, one constant each: every reader agrees on these names.

Besides the constants, ``trials`` has one column per parameter of the space under its dotted path
(``model.architecture``, ``optimizer.lr``; null where its condition did not hold), and ``trials`` and ``epochs``
have one column ``iou/<class>`` per class (null where the class is absent from prediction and truth).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 2
"""Stored in every file's metadata under ``schema_version``; raised when readers need other columns than before."""

TRIAL_ID = "trial_id"
"""``t0000``, ``t0001``, ... in the order drawn; repeats under further seeds are ``t0000-1``, ``t0000-2``, ..."""
CONFIGURATION = "configuration"
"""The drawn configuration that the trial ran: the ``trial_id`` of its first run."""
REPEAT = "repeat"
"""0 for the first run of a configuration, 1, 2, ... for its repeats under further seeds."""
REPEATS = "repeats"
"""Of a configuration (:mod:`search.repeats`), in no table: how many of its runs completed."""
MIOU_STD = "miou_std"
"""Of a configuration, in no table: sample standard deviation of mIoU over its completed runs; null for one."""
STATE = "state"
"""One of :data:`STATES`."""
REASON = "reason"
"""Why a trial is not ``completed``, for people; null when it is."""
EPOCH = "epoch"
"""Of ``epochs``: the epoch, from 1. Of ``trials``: the last epoch reached, 0 when none."""
EPOCHS = "epochs"
"""Full budget of the trial in epochs."""
BEST_EPOCH = "best_epoch"
"""Epoch of the highest mIoU: the metrics of a ``trials`` row and the kept checkpoint are from there."""
MIOU = "miou"
"""Mean IoU from one confusion matrix over the whole validation set; absent classes are left out. Objective, max."""
MIOU_FOREGROUND = "miou_foreground"
"""Mean IoU without class 0 (background)."""
PIXEL_ACCURACY = "pixel_accuracy"
"""Correct pixels over labelled pixels."""
MEAN_CLASS_ACCURACY = "mean_class_accuracy"
"""Mean recall over the classes present in the truth."""
TRAIN_LOSS = "train_loss"
"""Mean loss over the epoch's training batches, augmented."""
TRAIN_MIOU = "train_miou"
"""mIoU of the same batches, as the model was when it met them."""
TRAIN_PIXEL_ACCURACY = "train_pixel_accuracy"
"""Pixel accuracy of the same batches."""
TRAIN_MEAN_CLASS_ACCURACY = "train_mean_class_accuracy"
"""Mean class accuracy of the same batches."""
VAL_LOSS = "val_loss"
"""Mean loss over the validation batches."""
LR = "lr"
"""Learning rate at the end of the epoch."""
EPOCH_TIME_S = "epoch_time_s"
"""Seconds of the epoch: training, validation and checkpoint."""
TRAIN_TIME_S = "train_time_s"
"""Seconds of all epochs of the trial so far."""
IMAGES_PER_S = "images_per_s"
"""Training images per second, everything in the training pass included."""
LATENCY_MS = "latency_ms"
"""Median latency of one forward pass on the target device, measured with nothing else running. Objective, min."""
LATENCY_P95_MS = "latency_p95_ms"
"""95th percentile of the same measurement."""
LATENCY_SPREAD = "latency_spread"
"""Interquartile range of the same measurement over its median."""
LATENCY_CPU_MS = "latency_cpu_ms"
"""Median latency on the CPU; null when not measured."""
LATENCY_GPU_MS = "latency_gpu_ms"
"""Median latency on the GPU; null when not measured."""
SIZE_MB = "size_mb"
"""Weights as served, in 10^6 bytes. Objective, min."""
PARAMS = "params"
"""Trainable parameters."""
MACS = "macs"
"""Multiply-accumulate operations of one image."""
SEED = "seed"
"""Seed of the trial."""
DEVICE = "device"
"""Of ``trials``: where it trained. Of ``architectures``: ``cpu`` or ``cuda``, where latency was measured."""
DEVICE_NAME = "device_name"
"""The processor's or GPU's own name."""
STARTED_AT = "started_at"
"""UTC time of the first start."""
ENDED_AT = "ended_at"
"""UTC time of the end."""
REPORTED_AT = "reported_at"
"""UTC time the search received the epoch."""
CONFIG = "config"
"""The full TrialConfig as JSON: ``python -m trainers.train`` runs it again."""
ARCHITECTURE = "architecture"
"""Key of the architecture: JSON of the model fields that make it what it is."""
BATCH = "batch"
"""Images per forward pass of the latency measurement."""
HEIGHT = "height"
"""Input height in pixels of the measurement."""
WIDTH = "width"
"""Input width in pixels of the measurement."""
PRECISION = "precision"
"""Precision of the latency measurement."""
MEMORY_FORMAT = "memory_format"
"""``contiguous`` or ``channels_last``: layout of weights and images in the latency measurement; null in older runs,
where it went with the precision (channels last with bf16)."""
COMPILED = "compiled"
"""Whether ``torch.compile`` made the model of the latency measurement; null in older runs, where it never did."""
TRAIN_PRECISION = "train_precision"
"""The faster precision for training this architecture, by measurement; null where only the latency was measured."""
TRAIN_MEMORY_MB = "train_memory_mb"
"""Memory on the GPU of a process that trains this architecture, in 10^6 bytes; null on a CPU and in older runs."""
TRAIN_BATCH = "train_batch"
"""Images of the training step that was measured; null where none was."""
DEVICE_MEMORY_MB = "device_memory_mb"
"""Memory of the GPU, in 10^6 bytes; null on a CPU and in older runs."""
OTHERS_BUSY = "others_busy"
"""Share of the machine's cores that other processes used right before the measurement; null in older runs."""
TORCH_VERSION = "torch_version"
"""torch that was measured."""
MEASURED_AT = "measured_at"
"""UTC time of a latency measurement."""
LATENCY_AGAIN_MS = "latency_again_ms"
"""In no table: of an architecture on the front, :data:`LATENCY_MS` measured once more after the last trial."""
FEASIBLE = "feasible"
"""Whether the architecture keeps the constraints of the search."""

MEASURED = (ARCHITECTURE, DEVICE, HEIGHT, WIDTH)
"""What a row of ``architectures`` or ``latency_checks`` is about."""
COMPLETED, STOPPED, INFEASIBLE, FAILED, INTERRUPTED = "completed", "stopped", "infeasible", "failed", "interrupted"
STATES = (COMPLETED, STOPPED, INFEASIBLE, FAILED, INTERRUPTED)
"""At full budget; by the scheduler; broke a constraint, never trained; with the reason; to be resumed."""

OBJECTIVES: Mapping[str, str] = {MIOU: "max", LATENCY_MS: "min", SIZE_MB: "min"}
"""What the search trades off, and in which direction."""

_METRICS = (
    *(MIOU, MIOU_FOREGROUND, PIXEL_ACCURACY, MEAN_CLASS_ACCURACY, VAL_LOSS),
    *(TRAIN_LOSS, TRAIN_MIOU, TRAIN_PIXEL_ACCURACY, TRAIN_MEAN_CLASS_ACCURACY, LR),
)
_TIMES = (EPOCH_TIME_S, TRAIN_TIME_S, IMAGES_PER_S)
RUN_METRICS = (*_METRICS, TRAIN_TIME_S, IMAGES_PER_S)
"""What differs between the runs of one configuration, besides the IoU of each class."""
_UTC = pa.timestamp("us", tz="UTC")


def cell(value: Any) -> Any:
    """A parameter's value as a table holds it: lists as JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def iou_column(class_name: str) -> str:
    """Column of one class's IoU."""
    return f"iou/{class_name}"


def _schema(fields: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    return pa.schema(list(fields), metadata={"schema_version": str(SCHEMA_VERSION)})


def _floats(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.float64()) for name in names]


def epochs_schema(classes: Sequence[str]) -> pa.Schema:
    """Schema of ``epochs``: one row a (trial, epoch)."""
    head = [(TRIAL_ID, pa.string()), (EPOCH, pa.int64()), (REPORTED_AT, _UTC)]
    return _schema([*head, *_floats(_METRICS), *_floats(_TIMES), *_floats([iou_column(name) for name in classes])])


def trials_schema(parameters: Mapping[str, pa.DataType], classes: Sequence[str]) -> pa.Schema:
    """Schema of ``trials``: one row a trial; ``parameters`` maps dotted paths to column types."""
    head = [
        (TRIAL_ID, pa.string()),
        (CONFIGURATION, pa.string()),
        (REPEAT, pa.int64()),
        (STATE, pa.string()),
        (REASON, pa.string()),
        (EPOCH, pa.int64()),
        (EPOCHS, pa.int64()),
        (BEST_EPOCH, pa.int64()),
    ]
    cost = [*_floats((LATENCY_MS, LATENCY_P95_MS, LATENCY_CPU_MS, LATENCY_GPU_MS, SIZE_MB))]
    counts = [(PARAMS, pa.int64()), (MACS, pa.int64()), (SEED, pa.int64())]
    times = [*_floats((TRAIN_TIME_S, IMAGES_PER_S)), (STARTED_AT, _UTC), (ENDED_AT, _UTC)]
    texts = [(name, pa.string()) for name in (DEVICE, ARCHITECTURE, CONFIG)]
    ious = _floats([iou_column(name) for name in classes])
    return _schema([*head, *parameters.items(), *_floats(_METRICS), *cost, *counts, *times, *texts, *ious])


def architectures_schema() -> pa.Schema:
    """Schema of ``architectures``: one row a profiled (architecture, device)."""
    texts = (DEVICE, DEVICE_NAME, PRECISION, MEMORY_FORMAT, TRAIN_PRECISION, TORCH_VERSION, REASON)
    numbers = (PARAMS, MACS, BATCH, HEIGHT, WIDTH, TRAIN_BATCH)
    measured = (LATENCY_MS, LATENCY_P95_MS, LATENCY_SPREAD, SIZE_MB, OTHERS_BUSY, TRAIN_MEMORY_MB, DEVICE_MEMORY_MB)
    return _schema(
        [
            (ARCHITECTURE, pa.string()),
            *_floats(measured),
            *[(name, pa.int64()) for name in numbers],
            *[(name, pa.bool_()) for name in (COMPILED, FEASIBLE)],
            *[(name, pa.string()) for name in texts],
        ]
    )


def latency_checks_schema() -> pa.Schema:
    """Schema of ``latency_checks``: one row an architecture of the front, measured once more at a search's end."""
    return _schema(
        [
            *[(name, pa.string()) for name in (ARCHITECTURE, DEVICE, DEVICE_NAME)],
            *[(name, pa.int64()) for name in (HEIGHT, WIDTH)],
            *_floats((LATENCY_MS, LATENCY_P95_MS, LATENCY_SPREAD, OTHERS_BUSY)),
            (MEASURED_AT, _UTC),
        ]
    )
