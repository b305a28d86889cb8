"""What a cluster is made of, without importing Ray."""

from __future__ import annotations

from dataclasses import dataclass, field


class ClusterError(ValueError):
    """A cluster that cannot be reached; the message says which and what to do."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: int
    gpus: int
    name: str = field(default="", compare=False)
    """Host name."""
    node_id: str = field(default="", compare=False)
    """Ray's."""
