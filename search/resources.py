"""What one trial gets of the cluster, and how many trials run at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.nodes import Node
from search.config import ResourcesConfig
from trainers.settings import ConfigError


@dataclass(frozen=True)
class Share:
    """The resources of one trial, and how many such shares the cluster holds."""

    cpus: int
    gpus: float
    concurrent: int

    def describe(self) -> str:
        """For people."""
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        cores = "core" if self.cpus == 1 else "cores"
        return f"{self.cpus} CPU {cores}{gpus} a trial, {self.concurrent} at a time"


def share_of(nodes: Sequence[Node], wanted: ResourcesConfig, device: str) -> Share:
    """Divide the cluster: one GPU a trial with its part of the cores, or one core a trial where there is no GPU.

    Two trials of one thread each train faster than one of two threads (torch on a CPU reaches 55 to 60 % with one),
    hence one core.

    Raises:
        ConfigError: more asked for than any node has.
    """
    most_gpus = max(node.gpus for node in nodes)
    default_gpus = 1.0 if most_gpus and device != "cpu" else 0.0
    gpus = default_gpus if wanted.gpus_per_trial is None else wanted.gpus_per_trial
    _check_gpus(gpus, most_gpus, device)
    cpus = wanted.cpus_per_trial or _cpus_beside(nodes, gpus)
    most_cpus = max(node.cpus for node in nodes if node.gpus >= gpus)
    if cpus > most_cpus:
        raise ConfigError(
            f"resources.cpus_per_trial={cpus}, but the largest node has {most_cpus} cores: no trial could ever start. "
            f"Ask for at most {most_cpus}."
        )
    held = sum(_shares_on(node, cpus, gpus) for node in nodes)
    return Share(cpus, gpus, min(held, wanted.max_concurrent_trials or held))


def _check_gpus(gpus: float, most_gpus: int, device: str) -> None:
    if gpus > most_gpus:
        raise ConfigError(
            f"resources.gpus_per_trial={gpus:g}, but the cluster has no such GPU. Leave it out, or use 0."
        )
    if device == "cuda" and gpus == 0:
        has = "no node of the cluster has a GPU" if most_gpus == 0 else "resources.gpus_per_trial is 0"
        raise ConfigError(f"training.device=cuda, but {has}. Use training.device=cpu, or give trials a GPU.")


def _cpus_beside(nodes: Sequence[Node], gpus: float) -> int:
    """A trial's part of the cores of the poorest node that has GPUs; one where trials use none."""
    if gpus == 0:
        return 1
    return max(1, min(int(node.cpus * gpus / node.gpus) for node in nodes if node.gpus))


def _shares_on(node: Node, cpus: int, gpus: float) -> int:
    """``gpus`` is at most 1, and no share spans two GPUs."""
    by_cpu = node.cpus // cpus
    return by_cpu if gpus == 0 else min(by_cpu, node.gpus * int(1 / gpus))
