"""Would ``torch.compile`` repay itself in training? ``python tests/benchmarks/compile_gain.py [--space backbones] ...``

Prints a JSON line for each architecture of the space: ``eager_over_compiled``, the time of a bare epoch
(:class:`training_step.Bare`) over that of the same epoch compiled, in turns; ``compile_s``, what the first compiled
epoch took longer than a later one; and ``repaid_after_images``, how many images have to be trained until that is won
back, null where nothing is won. Compiled code that an earlier process left is not used.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from training_step import Bare, add_options, wanted
from turns import in_turns, seconds, spread

from trainers.config import TrialConfig
from trainers.datasets import open_dataset


def compare(config: TrialConfig, turns: int) -> dict[str, Any]:
    """Eager and compiled epochs, in turns."""
    data = open_dataset(config.data)
    eager = Bare(config, data)
    exact = config.replace({"training.precision": eager.precision})
    torch.compiler.reset()
    faster = Bare(exact, data, compiled=True)
    first_s = seconds(faster.epoch)
    pairs = in_turns(eager.epoch, faster.epoch, turns)
    eager_s, compiled_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    images = len(data.train) * (first_s - compiled_s) / (eager_s - compiled_s) if eager_s > compiled_s else None
    return {
        "precision": eager.precision,
        "compile_s": round(first_s - compiled_s, 1),
        "repaid_after_images": None if images is None else round(images),
    } | spread("eager_over_compiled", (before_s / after_s for before_s, after_s in pairs), 3)


def main() -> None:
    """Measure each architecture and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch._inductor.config.force_disable_caches = True
    for about, config in wanted("compile_gain", given):
        print(json.dumps(about | compare(config, given.turns)), flush=True)


if __name__ == "__main__":
    main()
