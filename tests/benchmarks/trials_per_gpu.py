"""How many small trials should share a GPU? Images per second of all together, 1, 2, 4 and 8 at a time, and ``auto``.

``python tests/benchmarks/trials_per_gpu.py [--space backbones] [--at-once 1 2 4 8] [--height 96 --width 128] ...``
prints one JSON line for each architecture of the space and number of trials on one GPU: each trains in a process of its
own, with its part of the cores, and begins its measured epochs together with the others. An architecture's last line
has what ``resources.gpus_per_trial=auto`` picks for it and ``auto_over_best``, the throughput of that over the highest,
1 being the limit. With ``--device cpu`` the trials share the cores instead, and there is nothing to pick.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from training_step import add_options, wanted

from cluster.nodes import Node
from search import columns
from search.cluster_config import AUTO, ResourcesConfig
from search.resources import Sharing, count_slots, share_of
from trainers.config import TrialConfig
from trainers.datasets import open_dataset
from trainers.loop import resolve_device, resolve_precision, train
from trainers.memory import device_memory_mb, training_memory_mb

READY_S = 600.0
"""Longest wait for the first epochs of all trials."""
CORES = os.cpu_count() or 1


def train_beside_others(trial: TrialConfig, threads: int, together: Barrier) -> tuple[float, float]:
    """Train one trial; the moments at which the second epoch began and the last one ended."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        epochs = train(trial, open_dataset(trial.data), Path(folder))
        try:
            next(epochs)
        except BaseException:
            together.abort()  # The others would wait for it.
            raise
        together.wait(READY_S)
        began = time.monotonic()
        for _ in epochs:
            pass
    return began, time.monotonic()


def throughput(trial: TrialConfig, at_once: int) -> float:
    """Images per second of so many trials together, after their first epochs."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(at_once, mp_context=spawn) as pool:
        work = trial, max(1, CORES // at_once), manager.Barrier(at_once)
        tasks = [pool.submit(train_beside_others, *work) for _ in range(at_once)]
        moments = [task.result() for task in tasks]
    wall_s = max(end for _, end in moments) - min(began for began, _ in moments)
    return at_once * (trial.training.epochs - 1) * len(open_dataset(trial.data).train) / wall_s


def picked(trial: TrialConfig) -> int:
    """How many trials of the architecture ``auto`` lets share a GPU of this machine, as if it had no other."""
    device = resolve_device("cuda")
    classes = open_dataset(trial.data).num_classes
    precision = resolve_precision(trial, classes, device)
    measured = {
        columns.TRAIN_MEMORY_MB: training_memory_mb(trial, classes, precision, device),
        columns.DEVICE_MEMORY_MB: device_memory_mb(device),
        columns.TRAIN_BATCH: trial.training.batch_size,
        columns.TRAIN_PRECISION: precision,
    }
    nodes, wanted = [Node(CORES, 1)], ResourcesConfig(gpus_per_trial=AUTO)
    share = Sharing(share_of(nodes, wanted, "cuda"), wanted, nodes).of(trial, measured)
    return count_slots(nodes, share.cpus, share.gpus)


def lines(trial: TrialConfig, numbers: list[int], *, on_gpu: bool) -> Iterator[dict[str, Any]]:
    """What is printed of one architecture."""
    auto = picked(trial) if on_gpu else None
    found: dict[int, float] = {}
    for at_once in sorted({*numbers, *([auto] if auto else [])}):
        found[at_once] = throughput(trial, at_once)
        yield {"at_once": at_once, "images_per_s": round(found[at_once], 1)}
    if auto is not None:
        yield {"auto": auto, "auto_over_best": round(found[auto] / max(found.values()), 3)}


def main() -> None:
    """Measure each architecture and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--epochs", type=int, default=4, help="the first is not measured")
    given = parser.parse_args()
    on_gpu = resolve_device(given.device).type == "cuda"
    for about, config in wanted("trials_per_gpu", given):
        trial = config.replace({"training.epochs": given.epochs})
        for line in lines(trial, given.at_once, on_gpu=on_gpu):
            print(json.dumps(about | line), flush=True)


if __name__ == "__main__":
    main()
