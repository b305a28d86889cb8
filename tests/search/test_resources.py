"""Dividing a cluster among trials."""

from __future__ import annotations

import pytest

from cluster.nodes import Node
from search.config import ResourcesConfig
from search.resources import Share, share_of
from trainers.settings import ConfigError

LAPTOP, WORKSTATION, SERVER = Node(2, 0), Node(16, 1), Node(64, 8)


@pytest.mark.parametrize(
    ("nodes", "wanted", "device", "share"),
    [
        ([LAPTOP], {}, "auto", Share(1, 0, 2)),
        ([LAPTOP], {"cpus_per_trial": 2}, "auto", Share(2, 0, 1)),
        ([LAPTOP, Node(3, 0)], {"cpus_per_trial": 2}, "cpu", Share(2, 0, 2)),
        ([LAPTOP], {"max_concurrent_trials": 1}, "auto", Share(1, 0, 1)),
        ([LAPTOP], {"max_concurrent_trials": 9}, "auto", Share(1, 0, 2)),
        ([WORKSTATION], {}, "auto", Share(16, 1, 1)),
        ([WORKSTATION], {}, "cpu", Share(1, 0, 16)),
        ([WORKSTATION], {"gpus_per_trial": 0}, "auto", Share(1, 0, 16)),
        ([WORKSTATION], {"gpus_per_trial": 0.5}, "cuda", Share(8, 0.5, 2)),
        ([WORKSTATION], {"gpus_per_trial": 0.5, "cpus_per_trial": 12}, "auto", Share(12, 0.5, 1)),
        ([SERVER], {}, "cuda", Share(8, 1, 8)),
        ([SERVER, LAPTOP], {}, "auto", Share(8, 1, 8)),
        ([SERVER, WORKSTATION], {}, "auto", Share(8, 1, 9)),
        ([Node(0, 0), LAPTOP], {}, "auto", Share(1, 0, 2)),
        ([Node(1, 2)], {}, "auto", Share(1, 1, 1)),
        # A GPU's shares are Ray's to place, and none of them spans two GPUs.
        ([Node(20, 2)], {"gpus_per_trial": 0.6, "cpus_per_trial": 1}, "auto", Share(1, 0.6, 2)),
        ([Node(20, 2)], {"gpus_per_trial": 0.1, "cpus_per_trial": 1}, "auto", Share(1, 0.1, 20)),
    ],
)
def test_a_cluster_is_divided(nodes: list[Node], wanted: dict[str, float], device: str, share: Share) -> None:
    assert share_of(nodes, ResourcesConfig(**wanted), device) == share  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "wanted", "device", "message"),
    [
        ([LAPTOP], {"cpus_per_trial": 3}, "auto", "cpus_per_trial=3, but the largest node has 2 cores.*at most 2"),
        ([LAPTOP, LAPTOP], {"cpus_per_trial": 4}, "auto", "the largest node has 2 cores"),
        ([Node(4, 1), Node(32, 0)], {"cpus_per_trial": 8}, "auto", "the largest node has 4 cores"),
        ([LAPTOP], {"gpus_per_trial": 0.5}, "auto", "gpus_per_trial=0.5, but the cluster has no such GPU"),
        ([LAPTOP], {}, "cuda", "training.device=cuda, but no node of the cluster has a GPU"),
        ([WORKSTATION], {"gpus_per_trial": 0}, "cuda", "training.device=cuda, but resources.gpus_per_trial is 0"),
    ],
)
def test_what_can_never_start_is_refused(
    nodes: list[Node], wanted: dict[str, float], device: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        share_of(nodes, ResourcesConfig(**wanted), device)  # type: ignore[arg-type]


def test_a_share_reads_well() -> None:
    assert Share(1, 0, 2).describe() == "1 CPU core a trial, 2 at a time"
    assert Share(8, 0.5, 2).describe() == "8 CPU cores and 0.5 GPU a trial, 2 at a time"
