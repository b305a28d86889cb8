"""What each architecture costs, measured before anything trains: the latency table of a search.

Profiles are measured one at a time on a node that does nothing else, and cached there across runs. Where trials train
on a GPU, the latency on the CPU beside it is measured too; limits and objectives are about the device of the trials.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connect import alive_nodes
from cluster.nodes import ClusterError
from cluster.tasks import result_of
from search import columns
from search.capacity import REFRESH_S, Patience
from search.config import ConstraintsConfig, LatencyConfig
from search.ehvi import ARCHITECTURE, Cost, Costs
from search.files import write_text_atomically
from search.resources import Share, fits
from search.results import Table
from spaces import Assignment
from trainers.choices import EXTRAS
from trainers.config import ModelConfig, TrialConfig
from trainers.datasets.packed import cache_folder
from trainers.loop import resolve_device, training_shape
from trainers.memory import device_memory_mb, training_memory_mb
from trainers.profiling import (
    BUSY,
    ArchitectureProfile,
    ProfilingError,
    Serving,
    device_name,
    others_busy,
    profile_architecture,
)
from trainers.settings import ConfigError, TrialError

Row = dict[str, Any]
"""One row of the table ``architectures``."""
_Key = tuple[str, int, int]
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Measurement:
    """An architecture to measure, and how: what travels to the machine that does."""

    trial: TrialConfig
    num_classes: int
    latency: LatencyConfig
    node_threads: int
    """CPU threads of the forward pass: a model is served by a machine of its own."""
    threads_per_trial: int
    """CPU threads of a training step."""

    @property
    def architecture(self) -> str:
        """See :func:`architecture_key`."""
        return architecture_key(self.trial)

    @property
    def serving(self) -> Serving:
        """How the model is served."""
        asked = self.latency
        return Serving(
            batch=asked.batch, precision=asked.precision, memory_format=asked.memory_format, compiled=asked.compile
        )


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
        patience: Patience | None = None,
    ) -> None:
        """``patience``: told while a measurement waits for a node; without it nobody is."""
        self._table = table
        self._patience = patience
        self._latency = latency
        self._constraints = constraints
        self._share, self._node_cpus = share, node_cpus
        self._num_classes = num_classes
        self._rows: dict[_Key, Row] = {}
        for row in table.read().to_pylist():
            self._take(row)

    def row(self, trial: TrialConfig) -> Row | None:
        """The profile of the trial's architecture on the device that counts, if it was measured.

        Where that is a GPU, ``latency_cpu_ms`` is there too.
        """
        return self._rows.get(_key(trial))

    def excess(self, row: Mapping[str, Any]) -> dict[str, float]:
        """How far the architecture is beyond each constraint that it breaks, relative to the limit."""
        return self._constraints.excess(row)

    def reason(self, row: Mapping[str, Any]) -> str | None:
        """Which constraints the architecture breaks, for people; none when it keeps them all."""
        limits = self._constraints.limits()
        broken = [f"{name} {row[name]:.4g} > {limits[name]:.4g}" for name in self.excess(row)]
        return ", ".join(broken) or None

    def costs(self, base: TrialConfig) -> Costs:
        """What is known of the architecture that an assignment makes of ``base``, for the sampler."""

        def cost(assignment: Assignment) -> Cost | None:
            try:
                row = self.row(_with_architecture(base, assignment))
            except ConfigError:
                return None  # A contradiction, which the search records when it is drawn.
            if row is None:
                return None
            return Cost(row[columns.LATENCY_MS], row[columns.SIZE_MB], not self.excess(row))

        return cost

    def measure(self, trials: Iterable[TrialConfig], say: Callable[[str], None], *, claim: bool) -> None:
        """Profile the architectures of ``trials`` that are not in the table, one after the other.

        Nothing else must run on the device. Before a search the measuring task claims a whole node (``claim``);
        later the search has paused its trials, whose idle actors still hold what could be claimed.

        Raises:
            ConfigError: an architecture cannot be measured as the settings say.
            ClusterError: no node could, or the process that did died.
        """
        missing = {_key(trial): trial for trial in trials if _key(trial) not in self._rows}
        for count, (key, trial) in enumerate(missing.items(), start=1):
            say(f"Measuring architecture {count} of {len(missing)}: {describe_architecture(key[0])}")
            try:
                profiles = self.run_task(profile_cached, trial, claim=claim)
            except ray.exceptions.RayError as error:
                what = describe_architecture(key[0])
                raise ClusterError(f"The process that measured {what} died: {str(error).splitlines()[-1]}") from error
            reason = self.reason(dataclasses.asdict(profiles[0]))
            for profile in profiles:
                self._add(key, profile, reason)
        self._table.flush()

    def run_task(
        self,
        task: Callable[..., _Found],
        trial: TrialConfig,
        *given: object,
        claim: bool,
        timeout_s: float | None = None,
    ) -> _Found:
        """What ``task`` returns on a node with the device, called with the trial's :class:`Measurement` and ``given``.

        Raises:
            ConfigError: the architecture cannot be measured as the settings say.
            ClusterError: no node has the device and the cores, and a limited time is too short to wait for one; or
                there is no answer after ``timeout_s``.
            ray.exceptions.RayError: the task's process died.
        """
        gpus = 1 if self._share.gpus and self._latency.device != "cpu" else 0
        needs = Share(self._node_cpus, gpus, 1)
        if timeout_s is not None and claim:
            _require_node(needs)
        if claim:
            place: dict[str, Any] = {"num_cpus": self._node_cpus, "num_gpus": gpus}
        else:  # An idle actor holds the GPU; what claims none of them sees them all.
            node = max(alive_nodes(), key=lambda node: (node.gpus, node.cpus))
            place = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=not gpus)}
        remote = ray.remote(task).options(**place, max_retries=2)
        work = Measurement(trial, self._num_classes, self._latency, self._node_cpus, self._share.cpus)
        reference = remote.remote(work, *given)
        try:
            if timeout_s is not None:
                _await_limited(reference, needs if claim else None, timeout_s)
            elif self._patience is not None:
                self._patience.await_node(reference, needs)
            found: _Found = result_of(reference, TrialError)
        except BaseException:
            ray.cancel(reference, force=True)  # Where it has not ended, it may wait for its node, or hold it.
            raise
        return found

    def closest(self) -> str:
        """The architecture that breaks the constraints the least, with its figures, for people."""
        row = min(self._rows.values(), key=lambda row: max(self.excess(row).values(), default=0.0))
        return (
            f"{describe_architecture(row[columns.ARCHITECTURE])} with latency_ms {row[columns.LATENCY_MS]:.4g}, "
            f"size_mb {row[columns.SIZE_MB]:.4g}, params {row[columns.PARAMS]}"
        )

    def summary(self) -> str:
        """What was measured, in one line."""
        if not self._rows:
            return "Too many architectures to measure ahead: each is when it is first drawn, while no trial runs"
        times = sorted(row[columns.LATENCY_MS] for row in self._rows.values())
        device = next(iter(self._rows.values()))[columns.DEVICE_NAME]
        broken = sum(self.reason(row) is not None for row in self._rows.values())
        refused = f", {broken} beyond the constraints" if broken else ""
        return f"{len(times)} architectures of {times[0]:.1f} to {times[-1]:.1f} ms on {device}{refused}"

    def doubts(self) -> str | None:
        """For people, that the machine was not idle while latency was measured; none where it was."""
        busy = max((row[columns.OTHERS_BUSY] or 0.0 for row in self._rows.values()), default=0.0)
        if busy <= BUSY:
            return None
        return (
            f"Warning: other processes kept up to {busy:.0%} of the cores at work while latency was measured, so it "
            "may be many times too high. It is measured anew by the next search on an idle machine."
        )

    @property
    def rows(self) -> list[Row]:
        """All profiles, in the order measured."""
        return list(self._rows.values())

    def _add(self, key: _Key, profile: ArchitectureProfile, reason: str | None) -> None:
        row = {columns.ARCHITECTURE: key[0]} | dataclasses.asdict(profile)
        row |= {columns.REASON: reason, columns.FEASIBLE: reason is None}
        self._table.append(row)
        self._take(row)

    def _take(self, row: Row) -> None:
        """A row of the table; that of the CPU beside a GPU, which comes after the GPU's, adds its latency to that."""
        key = row[columns.ARCHITECTURE], row[columns.HEIGHT], row[columns.WIDTH]
        known = self._rows.get(key)
        if known is not None and (known[columns.DEVICE], row[columns.DEVICE]) == ("cuda", "cpu"):
            known[columns.LATENCY_CPU_MS] = row[columns.LATENCY_MS]
        else:
            self._rows[key] = dict(row)


def _require_node(needs: Share) -> None:
    if not fits(alive_nodes(), {needs: 1}):
        raise ClusterError(f"no node with {needs.each()} is there any more.")


def _await_limited(task: ray.ObjectRef[Any], needs: Share | None, timeout_s: float) -> None:
    """Return once ``task`` is done. Where its node dies it would wait for another with what it ``needs``."""
    deadline = time.monotonic() + timeout_s
    while not ray.wait([task], timeout=REFRESH_S)[0]:
        if needs is not None:
            _require_node(needs)
        if time.monotonic() > deadline:
            raise ClusterError(f"there was no answer within {timeout_s:g} s.")


def _key(trial: TrialConfig) -> _Key:
    return architecture_key(trial), trial.data.height, trial.data.width


def _with_architecture(base: TrialConfig, assignment: Assignment) -> TrialConfig:
    """As ``base.replace``, for what latency and size depend on; fast, since samplers ask for thousands."""
    sections: dict[str, Any] = {}
    for prefix in ARCHITECTURE:
        section = prefix.removesuffix(".")
        values = {path.removeprefix(prefix): value for path, value in assignment.items() if path.startswith(prefix)}
        sections[section] = dataclasses.replace(getattr(base, section), **values)
    return dataclasses.replace(base, **sections)


def describe_architecture(key: str) -> str:
    """An architecture's key for people: the name, then what sets it apart."""
    fields: Mapping[str, Any] = json.loads(key)
    usual = ModelConfig()
    unsaid = {"architecture"} | {name for name in EXTRAS if fields.get(name) == getattr(usual, name)}
    rest = ", ".join(f"{name} {str(value).lower()}" for name, value in fields.items() if name not in unsaid)
    return f"{fields['architecture']} ({rest.replace('_', ' ')})"


def profile_cached(work: Measurement) -> list[ArchitectureProfile]:
    """Profile on this machine, or return what was measured here before under the same conditions.

    Returns:
        The profile on the device that counts, first; on a GPU machine also that on its CPU.
    """
    torch.set_num_threads(work.node_threads)
    first, *others = measured_devices(work)
    return [_cached(work, first, work.threads_per_trial), *(_cached(work, device, None) for device in others)]


def profile_now(work: Measurement) -> ArchitectureProfile:
    """Profile on this machine, on the device that counts, whatever was measured before."""
    torch.set_num_threads(work.node_threads)
    return _profile(work, measured_devices(work)[0], None)


def forget(work: Measurement) -> None:
    """Remove what was measured of this architecture on this machine, under whatever conditions."""
    for file in _cache(work).glob(f"{_hash(work.architecture)}-*.json"):
        file.unlink(missing_ok=True)


def measured_devices(work: Measurement) -> list[torch.device]:
    """The devices of this machine to measure on; limits and objectives are about the first."""
    asked = work.latency.device
    device = resolve_device(work.trial.training.device if asked == "auto" else asked)
    return [device, torch.device("cpu")] if device.type == "cuda" and asked == "auto" else [device]


def _cached(work: Measurement, device: torch.device, train_threads: int | None) -> ArchitectureProfile:
    """``train_threads`` None: the faster precision of a training step is not looked for."""
    conditions = {
        "num_classes": work.num_classes,
        "input": [work.trial.data.height, work.trial.data.width],
        "train": [*training_shape(work.trial), train_threads] if train_threads else None,
        "serving": dataclasses.asdict(work.serving) | {"memory_format": work.serving.layout()},
        "device": device_name(device),
        "torch": torch.__version__,
        "figures": [item.name for item in dataclasses.fields(ArchitectureProfile)],  # Other versions have others.
    }
    name = f"{_hash(work.architecture)}-{_hash(json.dumps(conditions, sort_keys=True))}.json"
    file = _cache(work) / name
    if file.exists():
        known = ArchitectureProfile(**json.loads(file.read_text()))
        if not known.disturbed or others_busy(patience_s=0) > BUSY:
            return known
    profile = _profile(work, device, train_threads)
    if device.type == "cuda" and train_threads:
        profile = dataclasses.replace(profile, **_memory(work, device, profile.train_precision or "fp32"))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, json.dumps(dataclasses.asdict(profile)))
    return profile


def _profile(work: Measurement, device: torch.device, train_threads: int | None) -> ArchitectureProfile:
    size = work.trial.data
    try:
        return profile_architecture(
            work.trial.model,
            work.num_classes,
            size.height,
            size.width,
            device,
            serving=work.serving,
            train_batch=training_shape(work.trial) if train_threads else None,
            train_threads=train_threads,
        )
    except ProfilingError as error:
        raise ConfigError(
            f"latency.compile=true, but for {describe_architecture(work.architecture)} {error} Install what it lacks "
            "(on a CPU a C++ compiler, g++) where latency is measured, or use latency.compile=false."
        ) from error


def _memory(work: Measurement, device: torch.device, precision: str) -> dict[str, Any]:
    """The fields of a profile that say what a GPU must hold."""
    return {
        columns.TRAIN_MEMORY_MB: training_memory_mb(work.trial, work.num_classes, precision, device),
        columns.TRAIN_BATCH: work.trial.training.batch_size,
        columns.DEVICE_MEMORY_MB: device_memory_mb(device),
    }


def _cache(work: Measurement) -> Path:
    return cache_folder(work.trial.data) / "profiles"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
