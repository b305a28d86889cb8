"""For tests on a cluster of several nodes (a plugin of theirs): its head, what a test adds, and a place for searches.

A module says with ``EPOCH_S`` how much longer each epoch takes than it would.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_search import Marks, Place
from ray_nodes import RayNodes, ray_nodes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def cluster(folder: Path, request: pytest.FixtureRequest) -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH_S", request.module.EPOCH_S)
        with ray_nodes(folder / "marks", workers=0) as nodes:
            yield nodes


@pytest.fixture
def nodes(cluster: RayNodes) -> Iterator[RayNodes]:
    """The head alone; what a test adds goes with it."""
    yield cluster
    for node in cluster.workers:
        node.kill()
    cluster.workers.clear()


@pytest.fixture(scope="module")
def place(folder: Path, cluster: RayNodes) -> Place:
    return Place.made(folder / "work", cluster.environment)


@pytest.fixture(scope="module")
def marks(folder: Path) -> Marks:
    return Marks(folder / "marks")
