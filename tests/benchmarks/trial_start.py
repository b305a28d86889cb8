"""What it costs to start one more trial: reused actors (ours) against a new process a trial (Ray Tune's default).

``python tests/benchmarks/trial_start.py`` prints one JSON line. A start is the time from the end of the trial before
to the end of the next trial's first epoch, less that epoch itself: scheduling, process, imports, data set and model.
Both ways train the same trials, one at a time, in turns; the first start of each actor pool is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.authentication import authenticate_local_cluster

authenticate_local_cluster()
os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0", "RAY_CHDIR_TO_TRIAL_DIR": "0"}

from ray import tune

from cluster.connect import connect
from search import trainable
from trainers.config import TrialConfig
from trainers.profiling import cpu_model

TRIAL = TrialConfig().replace(
    {
        "model.size": "small",
        "model.base_channels": 4,
        "data.height": 32,
        "data.width": 32,
        "data.max_images": 8,
        "training.epochs": 1,
        "training.precision": "fp32",
    }
)


class Clock(tune.Callback):
    """Notes when trials end and what is left of their time without the epoch."""

    def __init__(self) -> None:
        self.ended_at: float | None = None
        self.starts_s: list[float] = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """See Callback."""
        if self.ended_at is not None:
            self.starts_s.append(time.perf_counter() - self.ended_at - result["epoch_time_s"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See Callback."""
        self.ended_at = time.perf_counter()


def start_times(reuse: bool, trials: int, folder: Path) -> list[float]:
    """Seconds of each start but the first."""
    clock = Clock()
    for index in range(trials):
        (folder / f"t{index}").mkdir(parents=True)
        TRIAL.save(folder / f"t{index}" / "config.yaml")  # as a search does before it hands a trial out
    configs = [
        {
            trainable.TRIAL_ID: f"t{index}",
            trainable.CONFIG: TRIAL.to_dict(),
            trainable.FOLDER: str(folder / f"t{index}"),
            trainable.STORAGE: None,
            trainable.WORKERS: 1,
            trainable.THREADS: 1,
            trainable.GPUS: 0,
        }
        for index in range(trials)
    ]
    tune.run(
        trainable.TrialActor,
        resources_per_trial={"cpu": 1},
        config=tune.grid_search(configs),
        storage_path=str(folder / "ray"),
        max_concurrent_trials=1,
        reuse_actors=reuse,
        callbacks=[clock],
        verbose=0,
    )
    return clock.starts_s


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    starts: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder, connect(None):
        for turn in range(arguments.turns):
            for reuse in starts:
                starts[reuse] += start_times(reuse, arguments.trials, Path(folder) / f"{turn}-{reuse}")
    ours, default = statistics.median(starts[True]), statistics.median(starts[False])
    print(
        json.dumps(
            {
                "benchmark": "trial_start",
                "device": cpu_model(),
                "starts": len(starts[True]),
                "reused_actor_s": round(ours, 3),
                "reused_actor_worst_s": round(max(starts[True]), 3),
                "new_process_s": round(default, 3),
                "new_process_over_reused": round(default / ours, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
