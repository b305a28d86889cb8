"""Connect to a Ray cluster: one started on this machine for the search, or a running one."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RpcError

from cluster.nodes import ClusterError, Node

PROBE_S = 5.0
"""Longest wait for the head of a cluster; Ray itself would try for minutes."""


@contextmanager
def connect(address: str | None) -> Iterator[tuple[Node, ...]]:
    """The nodes of the cluster at ``address``, or of one started here (none) and stopped at the end.

    Raises:
        ClusterError: no cluster answers at ``address``, or it refuses the token of this process.
    """
    # "local" in words: without an address Ray would join any cluster it finds on this machine.
    found = "local" if address is None else _find(address)
    ray.init(
        address=found,
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    # Ray would end the process with a stack trace. A pod or a job that is ended is interrupted as by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield alive_nodes()
    finally:
        ray.shutdown()


def _find(address: str) -> str:
    """``<host>:<port>`` of the head of a cluster that takes this process in, for ``auto`` that of this machine.

    Raises:
        ClusterError: no cluster answers at ``address``, or it refuses the token of this process.
    """
    try:
        found = str(canonicalize_bootstrap_address_or_die("auto")) if address == "auto" else address
        _probe(found)
        GcsClient(address=found)  # ray.init would hide for half a minute that a token is refused
    except AuthenticationError as error:
        raise ClusterError(_refusal(address)) from error
    except (OSError, ValueError, RpcError) as error:
        raise ClusterError(
            f"No Ray cluster answers at cluster.address={address}: {str(error).rstrip('.')}. "
            "Start one with 'ray start --head', or use this machine with cluster=local."
        ) from error
    return found


def _probe(address: str) -> None:
    """Raise OSError unless something listens at ``address``, ValueError unless it is ``<host>:<port>``."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("it is neither 'auto' nor <host>:<port>")
    with socket.create_connection((host, int(port)), timeout=PROBE_S):
        pass


def _refusal(address: str) -> str:
    """Why a cluster refuses this process, and what to do, for people."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        problem = "this is not its token"
    else:
        problem = f"it wants a token, and RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')}"
    return (
        f"The Ray cluster at cluster.address={address} refuses the search: {problem}. Give the token that its head was "
        "started with: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token or RAY_AUTH_TOKEN to "
        "the token itself."
    )


def alive_nodes() -> tuple[Node, ...]:
    """The machines of the connected cluster."""
    return tuple(
        Node(int(found.get("CPU", 0)), int(found.get("GPU", 0)), node["NodeManagerHostname"], node["NodeID"])
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        for found in ([node["Resources"]] if node["Alive"] else [])
    )


def lost_nodes() -> frozenset[str]:
    """Ids of the machines that the connected cluster had and has no more."""
    return frozenset(node["NodeID"] for node in ray.nodes() if not node["Alive"])  # type: ignore[no-untyped-call]
