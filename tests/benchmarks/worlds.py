"""Search policies in two made-up worlds of three families, replayed on their learning curves.

``python tests/benchmarks/worlds.py [--seeds 10]`` prints a JSON line for each world and policy: hypervolume of what had
completed after a fifth and after all of the epochs, mean and half of the 95 % interval over seeds, and how many trials
of each family completed. In the world ``order`` the large family leads from the first epoch; in ``cross`` it starts
slower than the small ones and wins late.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np

from search import columns
from search.comparisons import mean_effect
from search.config import SCHEDULERS, STOPPED_AS, SamplerConfig, SchedulerConfig
from search.recorded import Curve, Recording
from search.replay import replay_all
from search.simulation import Policy, Replay
from spaces import Space

EPOCHS, BUDGET, WORKERS = 27, 1_500, 8
RATES = tuple(10 ** (-4 + index / 8) for index in range(25))
WIDTHS = (0.5, 0.75, 1.0)


FAMILY, WIDTH, RATE = "model.architecture", "model.width", "optimizer.lr"


@dataclass(frozen=True)
class Family:
    """Models of one kind."""

    top: float
    """mIoU at full width and the best learning rate."""
    latency_ms: float
    size_mb: float
    pace: dict[str, float]
    """World to the epochs in which a learning curve covers 63 % of its way."""


FAMILIES = {
    "large": Family(0.80, 40.0, 60.0, {"order": 4.0, "cross": 12.0}),
    "middle": Family(0.68, 12.0, 20.0, {"order": 4.0, "cross": 6.0}),
    "small": Family(0.52, 3.0, 4.0, {"order": 4.0, "cross": 2.5}),
}
SPACE = Space.from_dict(
    "worlds",
    {
        "parameters": {
            FAMILY: {"values": list(FAMILIES)},
            WIDTH: {"values": list(WIDTHS)},
            RATE: {"distribution": "log_uniform_values", "min": RATES[0], "max": RATES[-1]},
        }
    },
)
POLICIES = [
    Policy(SamplerConfig(name=sampler, stopped=stopped), SchedulerConfig(name=scheduler, eta=3, grace_epochs=1))
    for sampler, scheduler, told in (
        *(("random", scheduler, ("constraint",)) for scheduler in SCHEDULERS),
        *(("tpe", scheduler, ("constraint",) if scheduler == "none" else STOPPED_AS) for scheduler in SCHEDULERS),
        *(("ehvi", scheduler, ("constraint",)) for scheduler in ("none", "front")),
    )
    for stopped in told
]


def made_up(world: str) -> Recording:
    """225 learning curves: every family at three widths and 25 learning rates, with noise of curve and epoch."""
    chance = random.Random(0)
    curves: list[Curve] = []
    for (name, family), width, lr in itertools.product(FAMILIES.items(), WIDTHS, RATES):
        final = family.top - 0.06 * (1 - width) - 0.1 * (math.log10(lr) + 2.5) ** 2 + chance.gauss(0, 0.01)
        mious = [
            max(0.0, final * (1 - math.exp(-epoch / family.pace[world])) + chance.gauss(0, 0.008))
            for epoch in range(1, EPOCHS + 1)
        ]
        costs = {columns.LATENCY_MS: family.latency_ms * width, columns.SIZE_MB: family.size_mb * width**2}
        assignment = {FAMILY: name, WIDTH: width, RATE: lr}
        times = (0.1 * family.latency_ms * width,) * EPOCHS
        curves.append(Curve(f"t{len(curves):04d}", assignment, costs, tuple(mious), times))
    corner = {columns.MIOU: 0.0, columns.LATENCY_MS: 44.0, columns.SIZE_MB: 66.0}
    return Recording(SPACE, tuple(curves), corner)


def summary(recording: Recording, replays: list[Replay]) -> dict[str, object]:
    """What came of one policy under all seeds."""
    reached = np.array([replay.hypervolume(recording, [BUDGET / 5, BUDGET]) for replay in replays])
    effects = [mean_effect(column) for column in reached.T]
    families = Counter(curve.assignment[FAMILY] for replay in replays for curve in replay.completed)
    return {
        f"hypervolume_at_{int(share)}": [round(effect.mean, 4), round(effect.mean - effect.interval[0], 4)]
        for share, effect in zip((BUDGET / 5, BUDGET), effects, strict=True)
        if effect.interval is not None
    } | {"completed": {name: round(families[name] / len(replays), 1) for name in FAMILIES}}


def main() -> None:
    """Replay every policy in both worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    for world in ("order", "cross"):
        recording = made_up(world)
        for policy, replays in zip(POLICIES, replay_all(recording, POLICIES, WORKERS, BUDGET, seeds), strict=True):
            print(json.dumps({"world": world, "policy": policy.name, "seeds": seeds} | summary(recording, replays)))


if __name__ == "__main__":
    main()
