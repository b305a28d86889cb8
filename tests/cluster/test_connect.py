"""Reaching a Ray cluster, or starting one here."""

from __future__ import annotations

import os
import socket
import time

import pytest
import ray

from cluster.connect import connect
from cluster.nodes import ClusterError


def test_without_an_address_a_cluster_lives_here_for_the_block() -> None:
    with connect(None) as nodes:
        assert ray.is_initialized()
        assert len(nodes) == 1
        assert 1 <= nodes[0].cpus <= (os.cpu_count() or 1)
    assert not ray.is_initialized()


def test_a_cluster_that_does_not_answer_is_named_at_once() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(
            ClusterError, match=rf"No Ray cluster answers at cluster.address={address}.*ray start --head"
        ):
            connect(address).__enter__()
        assert time.monotonic() - started < 30
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "local", "head:port"])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="it is neither 'auto' nor <host>:<port>"):
        connect(address).__enter__()
