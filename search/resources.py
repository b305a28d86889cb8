"""What each trial gets of the cluster, and how many trials it holds at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.nodes import Node
from search import columns
from search.cluster_config import AUTO, ResourcesConfig
from trainers.config import TrialConfig
from trainers.settings import ConfigError

MEMORY_MARGIN = 1.2
"""A trial's part of a GPU holds this many times the memory that was measured: losses and allocators differ."""
_PARTS = 10_000
"""Ray counts GPUs in ten-thousandths."""


@dataclass(frozen=True)
class Share:
    """The resources of one trial, and how many such shares the cluster holds."""

    cpus: int
    """CPU cores of each worker."""
    gpus: float
    """GPUs of each worker."""
    concurrent: int
    """Trials at a time on the cluster as it was when it was divided."""
    workers: int = 1
    """Processes that train the trial together."""

    def each(self) -> str:
        """What a trial has, for people."""
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        workers = f"{self.workers} workers of " if self.workers > 1 else ""
        return f"{workers}{self.cpus} CPU {'core' if self.cpus == 1 else 'cores'}{gpus}"

    def describe(self) -> str:
        """For people."""
        return f"{self.each()} a trial, {self.concurrent or 'as yet none'} at a time"

    def larger(self) -> Share | None:
        """Twice the part of a GPU, at most a whole one; none for a trial that has that, or no GPU."""
        return dataclasses.replace(self, gpus=min(1.0, 2 * self.gpus)) if 0 < self.gpus < 1 else None


def share_of(nodes: Sequence[Node], wanted: ResourcesConfig, device: str, *, growing: bool = False) -> Share:
    """Divide the cluster: one GPU a worker with its part of the cores, or one core a worker where there is no GPU.

    Two trials of one thread each train faster than one of two threads (torch on a CPU reaches 55 to 60 % with one),
    hence one core. With ``gpus_per_trial=auto`` a trial has at most the share returned (:class:`Sharing`).

    Args:
        nodes: of the cluster as it is now.
        wanted: what the settings say.
        device: ``training.device``.
        growing: nodes may join later: what the settings say in so many words is believed, if no node has it yet.

    Raises:
        ConfigError: more asked for than there is, or can be.
    """
    most_gpus = max((node.gpus for node in nodes), default=0)
    said = None if wanted.gpus_per_trial in (None, AUTO) else float(wanted.gpus_per_trial or 0)
    gpus = (1.0 if most_gpus and device != "cpu" else 0.0) if said is None else said
    _check_gpus(gpus, most_gpus, device, growing=growing)
    cpus = wanted.cpus_per_trial or _cpus_beside(nodes, gpus)
    most_cpus = max((node.cpus for node in nodes if node.gpus >= gpus), default=0)
    if cpus > most_cpus and not (growing and (said or wanted.cpus_per_trial)):
        raise ConfigError(_too_few_cores(cpus, most_cpus, growing=growing))
    slots, workers = count_slots(nodes, cpus, gpus), wanted.workers_per_trial
    if workers > slots and not growing:
        raise ConfigError(
            f"resources.workers_per_trial={workers}, but the cluster holds {slots} workers of "
            f"{Share(cpus, gpus, 0).each()}: no trial could ever start. Ask for at most {slots}, or for less a worker."
        )
    held = slots // workers
    return Share(cpus, gpus, min(held, wanted.max_concurrent_trials or held), workers)


def _check_gpus(gpus: float, most_gpus: int, device: str, *, growing: bool) -> None:
    if gpus > most_gpus and not growing:
        raise ConfigError(
            f"resources.gpus_per_trial={gpus:g}, but the cluster has no such GPU. Leave it out, or use 0."
        )
    if device == "cuda" and gpus == 0:
        has = "no node of the cluster has a GPU" if most_gpus == 0 else "resources.gpus_per_trial is 0"
        later = " On a cluster whose GPU nodes are still to come, say resources.gpus_per_trial=1." if growing else ""
        raise ConfigError(f"training.device=cuda, but {has}. Use training.device=cpu, or give trials a GPU.{later}")


def _too_few_cores(cpus: int, most_cpus: int, *, growing: bool) -> str:
    if growing and most_cpus == 0:
        return (
            "No node of the cluster has a core for a trial yet. Say what a trial needs of those to come: "
            "resources.cpus_per_trial=N, and resources.gpus_per_trial=1 for a GPU."
        )
    return (
        f"resources.cpus_per_trial={cpus}, but the largest node has {most_cpus} cores: no trial could ever start. "
        f"Ask for at most {most_cpus}."
    )


def _cpus_beside(nodes: Sequence[Node], gpus: float) -> int:
    """A worker's part of the cores of the poorest node that has GPUs; one where it uses none, or none is there yet."""
    with_gpus = [node for node in nodes if node.gpus]
    if gpus == 0 or not with_gpus:
        return 1
    return max(1, min(int(node.cpus * gpus / node.gpus) for node in with_gpus))


def count_slots(nodes: Sequence[Node], cpus: int, gpus: float) -> int:
    """How many workers the nodes hold when nothing else runs."""
    return sum(_Free(node).take(node.cpus, cpus, _parts(gpus)) for node in nodes)


def fits(nodes: Sequence[Node], shares: Mapping[Share, int]) -> bool:
    """Whether the nodes hold so many trials of each share together; the largest are placed first."""
    free = [_Free(node) for node in nodes]
    for share, count in sorted(shares.items(), key=lambda item: (-item[0].gpus, -item[0].cpus)):
        left = count * share.workers
        for node in free:
            left -= node.take(left, share.cpus, _parts(share.gpus))
        if left:
            return False
    return True


class _Free:
    """What is free of a node; ``gpus`` in ten-thousandths, since no share below one spans two GPUs."""

    def __init__(self, node: Node) -> None:
        self.cpus, self.gpus = node.cpus, [_PARTS] * node.gpus

    def take(self, count: int, cpus: int, gpu: int) -> int:
        """Place up to ``count`` workers; returns how many there is room for."""
        room = min(count, self.cpus // cpus)
        taken = 0 if gpu else room
        for index, free in enumerate(self.gpus if gpu else ()):
            here = min(room - taken, free // gpu)
            self.gpus[index] -= here * gpu
            taken += here
        self.cpus -= taken * cpus
        return taken


def _parts(gpus: float) -> int:
    return round(gpus * _PARTS)


class Sharing:
    """What each trial gets: the same for all or, with ``resources.gpus_per_trial=auto``, what its memory needs."""

    def __init__(self, share: Share, wanted: ResourcesConfig, nodes: Sequence[Node]) -> None:
        """``share``: of :func:`share_of`."""
        self.largest = self.least = share
        self.most_trials = wanted.max_concurrent_trials
        # Workers of one trial need a GPU each.
        self._auto = wanted.gpus_per_trial == AUTO and share.gpus > 0 and share.workers == 1
        self._cpus, self._nodes = wanted.cpus_per_trial, nodes

    def describe(self) -> str:
        """For people."""
        if not self._auto:
            return self.largest.describe()
        return f"at most {self.largest.each()} a trial, as the memory of its architecture needs"

    def of(self, trial: TrialConfig, architecture: Mapping[str, Any]) -> Share:
        """The share of a trial whose row of ``architectures`` is known."""
        if not self._auto:
            return self.largest
        gpus = part_of_gpu(trial, architecture)
        cpus = self._cpus or _cpus_beside(self._nodes, gpus)
        share = dataclasses.replace(self.largest, cpus=cpus, gpus=gpus)
        self.least = min(self.least, share, key=lambda item: item.gpus)
        return share


def part_of_gpu(trial: TrialConfig, architecture: Mapping[str, Any]) -> float:
    """The smallest 1/k of a GPU that holds the trial; 1 where its memory was not measured."""
    measured, total = architecture.get(columns.TRAIN_MEMORY_MB), architecture.get(columns.DEVICE_MEMORY_MB)
    if measured is None or total is None:
        return 1.0
    # Measured at another batch size or precision, it is scaled as a whole: weights do not grow, so that is enough.
    scale = max(1.0, trial.training.batch_size / architecture[columns.TRAIN_BATCH])
    wider = trial.training.precision == "fp32" and architecture[columns.TRAIN_PRECISION] == "bf16"
    needed = MEMORY_MARGIN * measured * scale * (2 if wider else 1)
    k = max(1, int(total / needed))
    return (_PARTS // k) / _PARTS  # Rounded down, so that k of them are not more than one.
