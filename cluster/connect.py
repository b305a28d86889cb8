"""Connect to a Ray cluster: one started on this machine for the search, or a running one."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from cluster.nodes import ClusterError, Node

PROBE_S = 5.0
"""Longest wait for the head of a cluster; Ray itself would try for minutes."""


@contextmanager
def connect(address: str | None) -> Iterator[tuple[Node, ...]]:
    """The nodes of the cluster at ``address``, or of one started here (none) and stopped at the end.

    Raises:
        ClusterError: no cluster answers at ``address``.
    """
    try:
        if address is not None and address != "auto":
            _probe(address)
        # "local" in words: without an address Ray would join any cluster it finds on this machine.
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise ClusterError(
            f"No Ray cluster answers at cluster.address={address}: {error}. "
            "Start one with 'ray start --head', or leave cluster.address out to use this machine."
        ) from error
    try:
        yield alive_nodes()
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Raise OSError unless something listens at ``address``, ValueError unless it is ``<host>:<port>``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("it is neither 'auto' nor <host>:<port>")
    with socket.create_connection((host, int(port)), timeout=PROBE_S):
        pass


def alive_nodes() -> tuple[Node, ...]:
    """The machines of the connected cluster."""
    offered = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return tuple(Node(int(item.get("CPU", 0)), int(item.get("GPU", 0))) for item in offered)
