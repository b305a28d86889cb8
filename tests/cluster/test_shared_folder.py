"""Every node must see the run's folder: nodes that do not are named before anything trains."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray_nodes import RayNodes, wait_until

from cluster.connect import alive_nodes
from cluster.nodes import ClusterError
from search.shared_folder import require_shared_folder

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def nodes(runs: Path) -> Iterator[RayNodes]:
    """A head and two nodes, on the second of which another file system lies over the folder of runs."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("only root can hide a folder from a node (unshare --mount)")
    place = Path(tempfile.mkdtemp(prefix="rs"))  # Short: the paths of sockets may have 107 bytes.
    found = RayNodes(place, dict(os.environ))
    hidden = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{runs}" && exec "$@"', "sh"]
    try:
        for node in (found.add(), found.add(within=hidden)):
            node.joined()
        ray.init(address=found.address, log_to_driver=False, logging_level=logging.ERROR)
        wait_until(lambda: len(alive_nodes()) == 3, "the head knows both nodes")
        yield found
    finally:
        ray.shutdown()
        found.close()
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.usefixtures("nodes")
def test_a_folder_that_a_node_does_not_see_is_refused_with_the_nodes_name(runs: Path) -> None:
    folder = runs / "mine"
    folder.mkdir()
    seen = r"Not all nodes see the run's folder .*/mine: .* says .*No such file"
    with pytest.raises(ClusterError, match=seen) as said:
        require_shared_folder(folder, alive_nodes(), limit_s=20)
    assert str(said.value).count(" says ") == 1, "of three nodes one does not train, and one sees the folder"
    assert "set runs=<folder> to one that all nodes share, or storage=<URI>" in str(said.value)
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("nodes")
def test_a_folder_that_all_nodes_see_is_left_as_it_was(tmp_path: Path) -> None:
    require_shared_folder(tmp_path, alive_nodes())
    assert list(tmp_path.iterdir()) == []
    require_shared_folder(tmp_path / "not there", alive_nodes()[:1])  # A single node needs none.
