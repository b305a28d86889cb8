"""Where does the time of a trial's epoch go? ``python tests/benchmarks/trial_profile.py [--space backbones] ...``

Prints one JSON line for each architecture of the space: shares of the wall-clock time of the second epoch by part, from
Python's own profiler in the thread that trains. ``forward``, ``backward`` and ``optimizer`` are what a bare loop has as
well, ``validation`` has forward passes too; the others are what a trial adds. ``checkpoints`` is the copy that another
thread writes. On a GPU, where the thread runs ahead of the device, waiting for it is booked where the thread waits.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from training_step import add_options, architectures, base_trial

from spaces import Space, shipped_spaces
from trainers.config import TrialConfig
from trainers.datasets import open_dataset
from trainers.loop import resolve_device, train
from trainers.profiling import device_name

PARTS = {
    "batches": ("trainers/batches.py", "_one_ahead"),
    "forward": ("trainers/loop.py", "compute_logits"),
    "loss": ("torch/nn/modules/module.py", "_wrapped_call_impl"),
    "backward": ("torch/_tensor.py", "backward"),
    "optimizer": ("torch/optim/lr_scheduler.py", "wrapper"),
    "training_metrics": ("trainers/evaluation.py", "update"),
}
"""Part of a training epoch to the function, called from there, whose time it is: end of the file's path, and name. A
schedule wraps the optimizer's step."""
AROUND = {
    "validation": ("trainers/loop.py", ("evaluate",)),
    "checkpoints": ("trainers/loop.py", ("copied_state",)),
}
"""The same outside of it."""
EPOCH = "_train_epoch"


def profiled(config: TrialConfig) -> tuple[pstats.Stats, float]:
    """The second epoch: what was called, and its seconds."""
    data, profiler = open_dataset(config.data), cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        # Of three: the last one waits for its own checkpoint.
        epochs = train(config.replace({"training.epochs": 3}), data, Path(folder))
        next(epochs)
        started = time.perf_counter()
        profiler.runcall(next, epochs)
        return pstats.Stats(profiler), time.perf_counter() - started


def shares(stats: pstats.Stats, wall_s: float) -> dict[str, float]:
    """Share of the time by part; what is left of training is ``rest_of_training``, what is left of all ``rest``."""
    called = stats.stats  # type: ignore[attr-defined]  # (file, line, name) to (.., .., own time, whole time, callers)
    found = dict.fromkeys((*PARTS, *AROUND), 0.0)
    training_s = 0.0
    for (file, _, name), (_, _, _, whole_s, callers) in called.items():
        training_s += whole_s if name == EPOCH else 0.0
        from_epoch_s = sum(times[3] for (_, _, caller), times in callers.items() if caller == EPOCH)
        for part, (path, function) in PARTS.items():
            if file.endswith(path) and name == function:
                found[part] += from_epoch_s
        for part, (path, functions) in AROUND.items():
            if file.endswith(path) and name in functions:
                found[part] += whole_s
    inside_s = sum(found[part] for part in PARTS)
    found["rest_of_training"] = training_s - inside_s
    found["rest"] = wall_s - training_s - sum(found[part] for part in AROUND)
    return {part: round(spent_s / wall_s, 3) for part, spent_s in found.items()}


def main() -> None:
    """Profile each architecture and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    space = Space.from_dict(given.space, shipped_spaces()[given.space])
    about: dict[str, Any] = {"benchmark": "trial_profile", "device": device_name(resolve_device(given.device))}
    for model, config in architectures(space, base_trial(given)):
        print(json.dumps(about | model | shares(*profiled(config))), flush=True)


if __name__ == "__main__":
    main()
