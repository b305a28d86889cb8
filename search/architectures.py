"""What each architecture costs, measured before anything trains: the latency table of a search.

Profiles are measured one at a time on a node that does nothing else, and cached there across runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
import torch

from search import columns
from search.config import ConstraintsConfig, LatencyConfig
from search.files import write_text_atomically
from search.resources import Share
from search.results import Table
from trainers.choices import EXTRAS
from trainers.config import ModelConfig, TrialConfig
from trainers.datasets.packed import cache_folder
from trainers.loop import resolve_device, training_shape
from trainers.profiling import ArchitectureProfile, device_name, profile_architecture

Row = dict[str, Any]
"""One row of the table ``architectures``."""
_Key = tuple[str, int, int]


def architecture_key(trial: TrialConfig) -> str:
    """Names the layers that a trial builds, whatever else it varies."""
    return json.dumps(trial.model.identity(), sort_keys=True)


class ArchitectureTable:
    """The profiles of a search's architectures, and which of them keep its constraints."""

    def __init__(
        self,
        *,
        table: Table,
        latency: LatencyConfig,
        constraints: ConstraintsConfig,
        share: Share,
        node_cpus: int,
        num_classes: int,
    ) -> None:
        self._table = table
        self._latency = latency
        self._limits = constraints.limits()
        self._share, self._node_cpus = share, node_cpus
        self._num_classes = num_classes
        self._rows: dict[_Key, Row] = {}
        for row in table.read().to_pylist():
            self._rows[row[columns.ARCHITECTURE], row[columns.HEIGHT], row[columns.WIDTH]] = row

    def row(self, trial: TrialConfig) -> Row | None:
        """The profile of the trial's architecture, if it was measured."""
        return self._rows.get(_key(trial))

    def excess(self, row: Mapping[str, Any]) -> dict[str, float]:
        """How far the architecture is beyond each constraint that it breaks, relative to the limit."""
        over = {name: row[name] / limit - 1.0 for name, limit in self._limits.items()}
        return {name: value for name, value in over.items() if value > 0}

    def reason(self, row: Row) -> str | None:
        """Which constraints the architecture breaks, for people; none when it keeps them all."""
        broken = [f"{name} {row[name]:.4g} > {self._limits[name]:.4g}" for name in self.excess(row)]
        return ", ".join(broken) or None

    def measure(self, trials: Iterable[TrialConfig], say: Callable[[str], None], *, claim: bool) -> None:
        """Profile the architectures of ``trials`` that are not in the table, one after the other.

        Nothing else must run on the device. Before a search the measuring task claims a whole node (``claim``);
        later the search has paused its trials, whose idle actors still hold what could be claimed.
        """
        missing = {_key(trial): trial for trial in trials if _key(trial) not in self._rows}
        for count, (key, trial) in enumerate(missing.items(), start=1):
            say(f"Measuring architecture {count} of {len(missing)}: {describe_architecture(key[0])}")
            self._rows[key] = self._add(trial, self._profile(trial, self._node_cpus if claim else 0))
        self._table.flush()

    def closest(self) -> Row:
        """The architecture that breaks the constraints the least."""
        return min(self._rows.values(), key=lambda row: max(self.excess(row).values(), default=0.0))

    def summary(self) -> str:
        """What was measured, in one line."""
        if not self._rows:
            return "Too many architectures to measure ahead: each is when it is first drawn, while no trial runs"
        times = sorted(row[columns.LATENCY_MS] for row in self._rows.values())
        device = next(iter(self._rows.values()))[columns.DEVICE_NAME]
        broken = sum(self.reason(row) is not None for row in self._rows.values())
        refused = f", {broken} beyond the constraints" if broken else ""
        return f"{len(times)} architectures of {times[0]:.1f} to {times[-1]:.1f} ms on {device}{refused}"

    @property
    def rows(self) -> list[Row]:
        """All profiles, in the order measured."""
        return list(self._rows.values())

    def _profile(self, trial: TrialConfig, cpus: int) -> ArchitectureProfile:
        gpus = 1 if self._share.gpus and self._latency.device != "cpu" else 0
        task = ray.remote(profile_cached).options(num_cpus=cpus, num_gpus=gpus, max_retries=2)
        profile: ArchitectureProfile = ray.get(
            task.remote(trial, self._num_classes, self._latency, self._node_cpus, self._share.cpus)
        )
        return profile

    def _add(self, trial: TrialConfig, profile: ArchitectureProfile) -> Row:
        row = {columns.ARCHITECTURE: architecture_key(trial)} | dataclasses.asdict(profile)
        row |= {columns.REASON: self.reason(row), columns.FEASIBLE: not self.excess(row)}
        self._table.append(row)
        return row


def _key(trial: TrialConfig) -> _Key:
    return architecture_key(trial), trial.data.height, trial.data.width


def describe_architecture(key: str) -> str:
    """An architecture's key for people: the name, then what sets it apart."""
    fields: Mapping[str, Any] = json.loads(key)
    usual = ModelConfig()
    unsaid = {"architecture"} | {name for name in EXTRAS if fields.get(name) == getattr(usual, name)}
    rest = ", ".join(f"{name} {str(value).lower()}" for name, value in fields.items() if name not in unsaid)
    return f"{fields['architecture']} ({rest.replace('_', ' ')})"


def profile_cached(
    trial: TrialConfig, num_classes: int, latency: LatencyConfig, node_threads: int, threads_per_trial: int
) -> ArchitectureProfile:
    """Profile on this machine, or return what was measured here before under the same conditions.

    Latency is measured with ``node_threads``, since a model is served by a machine of its own; the faster precision
    of training with the ``threads_per_trial`` that a trial gets.
    """
    torch.set_num_threads(node_threads)
    device = resolve_device(trial.training.device if latency.device == "auto" else latency.device)
    cache = cache_folder(trial.data) / "profiles"
    conditions = {
        "architecture": architecture_key(trial),
        "num_classes": num_classes,
        "input": [trial.data.height, trial.data.width],
        "train_batch": training_shape(trial),
        "latency": [latency.batch, latency.precision],
        "device": device_name(device),
        "threads_per_trial": threads_per_trial,
        "torch": torch.__version__,
    }
    name = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:24]
    file = cache / f"{name}.json"
    if file.exists():
        return ArchitectureProfile(**json.loads(file.read_text()))
    profile = profile_architecture(
        trial.model,
        num_classes,
        trial.data.height,
        trial.data.width,
        device,
        train_batch=training_shape(trial),
        train_threads=threads_per_trial,
        batch=latency.batch,
        precision=latency.precision,
    )
    cache.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, json.dumps(dataclasses.asdict(profile)))
    return profile
