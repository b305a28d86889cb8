"""How names and values are written for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from search import columns

MISSING = "–"

HEADINGS: Mapping[str, str] = {
    columns.TRIAL_ID: "trial",
    columns.MIOU: "mIoU",
    columns.MIOU_STD: "± over seeds",
    columns.REPEATS: "runs",
    columns.MIOU_FOREGROUND: "mIoU without background",
    columns.PIXEL_ACCURACY: "pixel accuracy",
    columns.MEAN_CLASS_ACCURACY: "mean class accuracy",
    columns.LATENCY_MS: "latency, ms",
    columns.LATENCY_GPU_MS: "latency on GPU, ms",
    columns.LATENCY_CPU_MS: "latency on CPU, ms",
    columns.LATENCY_P95_MS: "latency p95, ms",
    columns.LATENCY_AGAIN_MS: "measured again, ms",
    columns.LATENCY_SPREAD: "latency spread",
    columns.SIZE_MB: "size, MB",
    columns.PARAMS: "parameters",
    columns.MACS: "MACs",
    columns.TRAIN_TIME_S: "training, s",
    columns.BEST_EPOCH: "best epoch",
    columns.DEVICE_NAME: "device name",
}
"""Column to heading, where the column's own name would not do."""


def heading(column: str) -> str:
    """The heading of a column."""
    return HEADINGS.get(column, column)


def quantity(value: float) -> str:
    """Three significant digits, also where they are zeros, and without an exponent where people write none."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".")


def count(value: float) -> str:
    """A large count with its SI letter: ``31.0 M``."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scaled = value / (1e3 if letter == "k" else limit)
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f} {letter}"
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """A duration in the units that fit it."""
    if value < 60:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(value: datetime) -> str:
    """A UTC time to the minute."""
    return value.strftime("%Y-%m-%d %H:%M UTC")


_FORMATS: Mapping[str, Callable[[Any], str]] = {
    columns.MIOU: lambda value: f"{value:.3f}",
    columns.MIOU_STD: lambda value: f"{value:.3f}",
    columns.LATENCY_SPREAD: lambda value: f"{value:.1%}",
    columns.LATENCY_MS: quantity,
    columns.LATENCY_GPU_MS: quantity,
    columns.LATENCY_CPU_MS: quantity,
    columns.LATENCY_P95_MS: quantity,
    columns.LATENCY_AGAIN_MS: quantity,
    columns.SIZE_MB: quantity,
    columns.TRAIN_TIME_S: quantity,
    columns.PARAMS: count,
    columns.MACS: count,
    columns.EPOCH: str,
    columns.EPOCHS: str,
    columns.BEST_EPOCH: str,
}


def written(column: str, value: Any) -> str:
    """A value of a column; missing and not finite ones are a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if column in _FORMATS:
        return _FORMATS[column](value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, datetime):
        return moment(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def limits(constraints: Mapping[str, float | None]) -> str:
    """The hard limits of a search: ``latency_ms ≤ 20``; empty without any."""
    return ", ".join(f"{name} ≤ {limit:,.10g}" for name, limit in constraints.items() if limit is not None)
