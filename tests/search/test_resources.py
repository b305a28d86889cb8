"""Dividing a cluster among trials."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.nodes import Node
from search import columns
from search.cluster_config import ResourcesConfig
from search.resources import MEMORY_MARGIN, Share, Sharing, count_slots, share_of
from trainers.config import TrialConfig
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
        ([SERVER], {"workers_per_trial": 4}, "auto", Share(8, 1, 2, workers=4)),
        ([SERVER, WORKSTATION], {"workers_per_trial": 4}, "auto", Share(8, 1, 2, workers=4)),
        ([LAPTOP, LAPTOP], {"workers_per_trial": 4}, "auto", Share(1, 0, 1, workers=4)),
        # With auto the share is the largest that a trial may have.
        ([WORKSTATION], {"gpus_per_trial": "auto"}, "auto", Share(16, 1, 1)),
        ([LAPTOP], {"gpus_per_trial": "auto"}, "auto", Share(1, 0, 2)),
    ],
)
def test_a_cluster_is_divided(nodes: list[Node], wanted: dict[str, Any], device: str, share: Share) -> None:
    assert share_of(nodes, ResourcesConfig(**wanted), device) == share


@pytest.mark.parametrize(
    ("nodes", "wanted", "device", "message"),
    [
        ([LAPTOP], {"cpus_per_trial": 3}, "auto", "cpus_per_trial=3, but the largest node has 2 cores.*at most 2"),
        ([LAPTOP, LAPTOP], {"cpus_per_trial": 4}, "auto", "the largest node has 2 cores"),
        ([Node(4, 1), Node(32, 0)], {"cpus_per_trial": 8}, "auto", "the largest node has 4 cores"),
        ([LAPTOP], {"gpus_per_trial": 0.5}, "auto", "gpus_per_trial=0.5, but the cluster has no such GPU"),
        ([LAPTOP], {}, "cuda", "training.device=cuda, but no node of the cluster has a GPU"),
        ([WORKSTATION], {"gpus_per_trial": 0}, "cuda", "training.device=cuda, but resources.gpus_per_trial is 0"),
        (
            [SERVER, LAPTOP],
            {"workers_per_trial": 9},
            "auto",
            "workers_per_trial=9, but the cluster holds 8 workers of 8 CPU cores and 1 GPU: .*Ask for at most 8",
        ),
    ],
)
def test_what_can_never_start_is_refused(nodes: list[Node], wanted: dict[str, Any], device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        share_of(nodes, ResourcesConfig(**wanted), device)


@pytest.mark.parametrize(
    ("nodes", "wanted", "share"),
    [
        ([LAPTOP], {"gpus_per_trial": 1}, Share(1, 1, 0)),
        ([Node(0, 0)], {"gpus_per_trial": 0.5, "cpus_per_trial": 4}, Share(4, 0.5, 0)),
        ([LAPTOP], {"cpus_per_trial": 8}, Share(8, 0, 0)),
        ([LAPTOP], {"workers_per_trial": 8}, Share(1, 0, 0, workers=8)),
        ([], {"gpus_per_trial": 1}, Share(1, 1, 0)),
        ([WORKSTATION], {"gpus_per_trial": 1}, Share(16, 1, 1)),
    ],
)
def test_what_the_settings_say_is_believed_of_a_cluster_that_grows(
    nodes: list[Node], wanted: dict[str, Any], share: Share
) -> None:
    assert share_of(nodes, ResourcesConfig(**wanted), "auto", growing=True) == share


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [
        ({}, "auto", "No node of the cluster has a core for a trial yet. Say what a trial needs"),
        ({}, "cuda", "no node of the cluster has a GPU.*still to come, say resources.gpus_per_trial=1"),
    ],
)
def test_what_a_cluster_that_grows_must_be_told(wanted: dict[str, Any], device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        share_of([Node(0, 0)], ResourcesConfig(**wanted), device, growing=True)


TOTAL_MB = 16_000.0


def measured(memory_mb: float | None, batch: int = 16, precision: str = "bf16") -> dict[str, Any]:
    return {
        columns.TRAIN_MEMORY_MB: memory_mb,
        columns.DEVICE_MEMORY_MB: TOTAL_MB,
        columns.TRAIN_BATCH: batch,
        columns.TRAIN_PRECISION: precision,
    }


@pytest.mark.parametrize(
    ("settings", "architecture", "cpus", "gpus"),
    [
        ({}, measured(TOTAL_MB / 4 / MEMORY_MARGIN), 4, 0.25),
        ({}, measured(1.01 * TOTAL_MB / 4 / MEMORY_MARGIN), 5, 0.3333),
        ({}, measured(0.51 * TOTAL_MB), 16, 1.0),
        ({}, measured(3 * TOTAL_MB), 16, 1.0),
        ({}, measured(None), 16, 1.0),
        ({}, {}, 16, 1.0),  # a run of before it was measured
        ({"training.batch_size": 32}, measured(TOTAL_MB / 8 / MEMORY_MARGIN), 4, 0.25),
        ({"training.batch_size": 8}, measured(TOTAL_MB / 8 / MEMORY_MARGIN), 2, 0.125),
        ({"training.precision": "fp32"}, measured(TOTAL_MB / 8 / MEMORY_MARGIN), 4, 0.25),
        ({"training.precision": "fp32"}, measured(TOTAL_MB / 8 / MEMORY_MARGIN, precision="fp32"), 2, 0.125),
    ],
)
def test_a_part_of_a_gpu_holds_what_was_measured(
    settings: dict[str, Any], architecture: dict[str, Any], cpus: int, gpus: float
) -> None:
    wanted = ResourcesConfig(gpus_per_trial="auto")
    trial = TrialConfig().replace({"training.batch_size": 16} | settings)
    sharing = Sharing(share_of([WORKSTATION], wanted, "auto"), wanted, [WORKSTATION])
    share = sharing.of(trial, architecture)
    assert (share.cpus, share.gpus) == (cpus, gpus)
    assert count_slots([WORKSTATION], share.cpus, share.gpus) >= int(1 / gpus)
    assert sharing.least == share
    assert sharing.describe() == "at most 16 CPU cores and 1 GPU a trial, as the memory of its architecture needs"


def test_each_of_several_workers_has_a_gpu_of_its_own() -> None:
    wanted = ResourcesConfig(gpus_per_trial="auto", workers_per_trial=4)
    sharing = Sharing(share_of([SERVER], wanted, "auto"), wanted, [SERVER])
    assert sharing.of(TrialConfig(), measured(1000.0)) == Share(8, 1, 2, workers=4)


def test_without_a_gpu_auto_means_none() -> None:
    wanted = ResourcesConfig(gpus_per_trial="auto")
    sharing = Sharing(share_of([LAPTOP], wanted, "auto"), wanted, [LAPTOP])
    assert sharing.of(TrialConfig(), measured(4000.0)) == Share(1, 0, 2)
    assert sharing.describe() == "1 CPU core a trial, 2 at a time"


def test_a_share_reads_well() -> None:
    assert Share(1, 0, 2).describe() == "1 CPU core a trial, 2 at a time"
    assert Share(8, 0.5, 2).describe() == "8 CPU cores and 0.5 GPU a trial, 2 at a time"
    assert Share(8, 1, 2, 4).describe() == "4 workers of 8 CPU cores and 1 GPU a trial, 2 at a time"
    assert Share(8, 1, 0).describe() == "8 CPU cores and 1 GPU a trial, as yet none at a time"
