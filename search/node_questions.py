"""A question to every node of a cluster that could train, such as whether it sees a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
) -> dict[Node, str | None]:
    """Call ``question`` on each node that has cores, whatever else runs there.

    Args:
        nodes: of the cluster.
        question: what is wrong, for people, as a predicate of the node's name; None if nothing is.
        arguments: of the question, by node.
        limit_s: for all nodes together.

    Returns:
        What each node answered; where none came, that.
    """
    deadline = time.monotonic() + limit_s
    tasks: dict[ray.ObjectRef[str | None], Node] = {}
    for node in nodes:
        if node.cpus:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            task = ray.remote(question).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            tasks[task.remote(*arguments(node))] = node
    ready, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=max(0.0, deadline - time.monotonic()))
    answers: dict[Node, str | None] = {tasks[task]: "does not answer" for task in late}
    for task in late:
        ray.cancel(task, force=True)
    for task in ready:
        try:
            answers[tasks[task]] = ray.get(task)
        except ray.exceptions.RayError as error:
            answers[tasks[task]] = f"says {str(error).splitlines()[-1]}"
    return answers


def describe_answers(answers: dict[Node, str | None]) -> str:
    """What is wrong where, for people; empty where nothing is."""
    return "; ".join(f"{node.name} {why}" for node, why in answers.items() if why is not None)
