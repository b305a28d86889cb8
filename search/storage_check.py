"""Whether the nodes of a cluster reach the run's storage, where trials there read and write their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.nodes import ClusterError, Node
from search.node_questions import LIMIT_S, ask_nodes, describe_answers
from search.storage import Storage, StorageError


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
    blind = describe_answers(ask_nodes(nodes, _probe, lambda node: (storage, f".probe-{node.node_id}"), limit_s))
    if blind:
        raise ClusterError(
            f"Not all nodes reach the storage: {blind}. Every node writes checkpoints there: set what the "
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
        return f"says {error}"
    return None if found == b"here" else f"says that {storage.place} gives back something else than was written"
