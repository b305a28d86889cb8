"""Whether the nodes of a cluster see the run's folder, which trials there read and write."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.nodes import ClusterError, Node

LIMIT_S = 60.0
"""Longest wait for the nodes: a task starts within seconds, and a network file system may take as many."""
_ASK_S = 0.5


def require_shared_folder(folder: Path, nodes: Sequence[Node], limit_s: float = LIMIT_S) -> None:
    """Let every node that could train read a file of this process, and write one that this process reads.

    Args:
        folder: of the run.
        nodes: of the cluster; a single one needs no folder that is shared.
        limit_s: for all nodes together.

    Raises:
        ClusterError: naming the nodes that do not see the folder as this process does, and what each said.
    """
    if len(nodes) < 2:
        return
    probe, word = folder / f".probe-{secrets.token_hex(8)}", secrets.token_hex(16)
    tasks: dict[ray.ObjectRef[str | None], _Asked] = {}
    deadline = time.monotonic() + limit_s
    try:
        probe.write_text(word)
        for index, node in enumerate(node for node in nodes if node.cpus):
            asked = _Asked(node, folder / f"{probe.name}-{index}")
            tasks[_task_on(node).remote(probe, asked.answer, word, limit_s / 2)] = asked
        blind = _blind(tasks, word, deadline)
    finally:
        for file in (probe, *(asked.answer for asked in tasks.values())):
            file.unlink(missing_ok=True)
    if blind:
        raise ClusterError(
            f"Not all nodes see the run's folder {folder}: {'; '.join(blind)}. Every node writes checkpoints there: "
            "set runs=<folder> to one that all nodes share, or storage=<URI> to keep results and checkpoints elsewhere."
        )


@dataclass(frozen=True)
class _Asked:
    """A node, and the file that it is to write."""

    node: Node
    answer: Path


def _blind(tasks: Mapping[ray.ObjectRef[str | None], _Asked], word: str, deadline: float) -> list[str]:
    """For each node that does not see what it should: its name and why."""
    ready, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=max(0.0, deadline - time.monotonic()))
    blind = [f"{tasks[task].node.name} does not answer" for task in late]
    for task in late:
        ray.cancel(task, force=True)
    for task in ready:
        asked = tasks[task]
        try:
            why = ray.get(task) or _wait_for(asked.answer, word, deadline - time.monotonic())
        except ray.exceptions.RayError as error:
            why = str(error).splitlines()[-1]
        if why is not None:
            blind.append(f"{asked.node.name} says {why}")
    return blind


def _task_on(node: Node) -> Any:
    """:func:`_answer` as a task that runs on the node whatever else does."""
    there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return ray.remote(_answer).options(num_cpus=0, max_retries=0, scheduling_strategy=there)


def _answer(probe: Path, answer: Path, word: str, limit_s: float) -> str | None:
    """On a node: what is wrong, None if the probe is there and the answer was written."""
    why = _wait_for(probe, word, limit_s)
    if why is None:
        try:
            answer.write_text(word)
        except OSError as error:
            why = str(error)
    return why


def _wait_for(file: Path, word: str, limit_s: float) -> str | None:
    """Why ``file`` cannot be read, None once it holds ``word``; network file systems may show it late."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            why = None if file.read_text() == word else f"{file} holds something else"
        except OSError as error:
            why = str(error)
        if why is None or time.monotonic() > deadline:
            return why
        time.sleep(_ASK_S)
