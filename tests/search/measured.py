"""Made-up measurements: what an architecture costs, told instead of measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search import columns
from search.architectures import ArchitectureTable, architecture_key
from search.config import ConstraintsConfig, LatencyConfig
from search.resources import Share
from search.results import Table
from trainers.config import TrialConfig
from trainers.profiling import ArchitectureProfile

CPU, GPU = "a processor (2 threads)", "a GPU"


def profile_of(trial: TrialConfig, latency_ms: float, **values: Any) -> ArchitectureProfile:
    """The profile of ``trial``; ``values`` replace fields."""
    costs: dict[str, Any] = {"params": 600, "size_mb": 2.5, "macs": 9000, "latency_ms": latency_ms}
    costs |= {"latency_p95_ms": 1.2 * latency_ms, "latency_spread": 0.02, "device": "cpu", "device_name": CPU}
    costs |= {"batch": 1, "height": trial.data.height, "width": trial.data.width, "precision": "fp32"}
    costs |= {"memory_format": "contiguous", "compiled": False, "torch_version": "2.15.0", "train_precision": "fp32"}
    return ArchitectureProfile(**costs | values)


def row_of(trial: TrialConfig, latency_ms: float, **values: Any) -> dict[str, Any]:
    """The row of ``architectures``."""
    profile = profile_of(trial, latency_ms, **values)
    return {columns.ARCHITECTURE: architecture_key(trial), columns.FEASIBLE: True} | vars(profile)


def architectures_in(
    folder: Path, *, constraints: ConstraintsConfig | None = None, latency: LatencyConfig | None = None
) -> ArchitectureTable:
    """The table of architectures in a run's folder, begun or continued."""
    return ArchitectureTable(
        table=Table(folder / "results" / "architectures", columns.architectures_schema()),
        latency=latency or LatencyConfig(),
        constraints=constraints or ConstraintsConfig(),
        share=Share(1, 0, 1),
        node_cpus=1,
        num_classes=2,
    )


def add_rows(folder: Path, *rows: dict[str, Any]) -> None:
    """Record measurements in a run's folder."""
    table = Table(folder / "results" / "architectures", columns.architectures_schema())
    for row in rows:
        table.append(row)
    table.flush()
