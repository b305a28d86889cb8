"""Whether the nodes of a cluster reach the run's storage, where trials there read and write their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.nodes import ClusterError, Node
from search.storage import Storage, StorageError

LIMIT_S = 150.0
"""Longest wait for all nodes together: S3's client tries for 100 s to reach a server that does not answer."""


def require_reachable(storage: Storage, nodes: Sequence[Node], limit_s: float = LIMIT_S) -> None:
    """Let every node that could train write a file to the storage and read it.

    Args:
        storage: that of the run.
        nodes: of the cluster; a single one is that of the search, which has written there already.
        limit_s: for all nodes together.

    Raises:
        ClusterError: naming the nodes that cannot, and what each said.
    """
    if len(nodes) < 2:
        return
    tasks: dict[ray.ObjectRef[str | None], Node] = {}
    for node in nodes:
        if node.cpus:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            probe = ray.remote(_probe).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            tasks[probe.remote(storage, f".probe-{node.node_id}")] = node
    ready, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=limit_s)
    blind = [f"{tasks[task].name} does not answer" for task in late]
    for task in late:
        ray.cancel(task, force=True)
    for task in ready:
        try:
            why = ray.get(task)
        except ray.exceptions.RayError as error:
            why = str(error).splitlines()[-1]
        if why is not None:
            blind.append(f"{tasks[task].name} says: {why}")
    if blind:
        raise ClusterError(
            f"Not all nodes reach the storage: {'; '.join(blind)}. Every node writes checkpoints there: set what the "
            "filesystem reads from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://) where "
            "'ray start' is called on each node."
        )


def _probe(storage: Storage, name: str) -> str | None:
    """On a node: what is wrong, None if it wrote a file and read it again."""
    try:
        storage.put(name, b"here")
        found = storage.read(name)
        storage.remove(name)
    except StorageError as error:
        return str(error)
    return None if found == b"here" else f"{storage.place} gives back something else than was written"
