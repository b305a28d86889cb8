"""A question to every node of a cluster that could train, such as whether it sees a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.nodes import Node

LIMIT_S = 180.0
"""Longest wait for all nodes together: busy ones take a while to start a process, file systems and S3 to answer."""


def ask_nodes(
    nodes: Sequence[Node],
    question: Callable[..., str | None],
    arguments: Callable[[Node], tuple[Any, ...]],
    limit_s: float,
) -> list[tuple[Node, str | None]]:
    """Call ``question`` on each node that has cores, whatever else runs there.

    Args:
        nodes: of the cluster.
        question: what is wrong, for people, as a predicate of the node's name; None if nothing is.
        arguments: of the question, by node.
        limit_s: for all nodes together.

    Returns:
        Each of these nodes with its answer; where none came, with that. (Nodes that offer the same are equal.)
    """
    deadline = time.monotonic() + limit_s
    asked: list[tuple[Node, ray.ObjectRef[str | None]]] = []
    for node in nodes:
        if node.cpus:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            task = ray.remote(question).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked.append((node, task.remote(*arguments(node))))
    tasks = [task for _, task in asked]
    _, late = ray.wait(tasks, num_returns=len(tasks), timeout=max(0.0, deadline - time.monotonic()))
    for task in late:
        ray.cancel(task, force=True)
    return [(node, "does not answer" if task in late else _answer(task)) for node, task in asked]


def _answer(task: ray.ObjectRef[str | None]) -> str | None:
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        return f"says {str(error).splitlines()[-1]}"


def describe_answers(answers: Iterable[tuple[Node, str | None]]) -> str:
    """What is wrong where, for people; empty where nothing is."""
    return "; ".join(f"{node.name} {why}" for node, why in answers if why is not None)
