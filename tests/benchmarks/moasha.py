"""syne-tune's MOASHA, asked and told through lines of JSON: run by :mod:`rival_policies`, in an environment of its own.

The first line holds the settings (see :func:`build`). Then each line is a trial's number, to be answered with its
configuration, or a number and a result, to be answered with whether the trial is stopped.

Its ranking takes minutes of a replay. Two of its functions are replaced by faster ones that return the same and draw
the same random numbers, which every start checks.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["moocore>=0.3,<0.4", "syne-tune==0.16.0"]
# [tool.uv]
# override-dependencies = [ # what MOASHA never imports, half a gigabyte of it
#     "scikit-learn; python_version < '3'", "statsmodels; python_version < '3'", "xgboost; python_version < '3'",
# ]
# ///
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import Domain, choice, loguniform, randint, uniform
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective import non_dominated_priority
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

_DISTRIBUTIONS = {"uniform": uniform, "log_uniform_values": loguniform, "int_uniform": randint}


def build(settings: Mapping[str, Any]) -> MOASHA:
    """The scheduler, with the random draws that it makes itself.

    Args:
        settings: ``parameters`` (path to what a W&B sweep file has of it), ``metrics``, all to be minimised,
            ``max_t``, ``grace_period``, ``reduction_factor``, ``seed``, and whether to rank ``repaired``.
    """
    np.random.seed(settings["seed"])  # MOASHA draws from numpy's global generator, whatever its own seed.
    return MOASHA(
        {path: _domain(entry) for path, entry in settings["parameters"].items()},
        metrics=settings["metrics"],
        time_attr="epoch",
        multiobjective_priority=ranks if settings["repaired"] else None,
        max_t=settings["max_t"],
        grace_period=settings["grace_period"],
        reduction_factor=settings["reduction_factor"],
    )


def pareto_efficient(objectives: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of ``objectives``, ``(n, objectives)``, no other dominates."""
    return np.asarray(moocore.is_nondominated(objectives, keep_weakly=True))


def compute_epsilon_net(objectives: NDArray[np.float64], dim: int | None = None) -> NDArray[np.int64]:
    """The place of each row when the next is always the one farthest from all before it.

    The first is the best in objective ``dim``, or a random one.
    """
    apart = np.linalg.norm(objectives[:, None] - objectives, axis=-1)
    nearest = np.full(len(objectives), np.inf)
    places = np.empty(len(objectives), dtype=np.int64)
    chosen = np.random.choice(len(objectives)) if dim is None else int(np.argmin(objectives[:, dim]))
    for place in range(len(objectives)):
        places[chosen] = place
        nearest = np.minimum(nearest, apart[chosen])
        nearest[chosen] = -np.inf
        chosen = int(nearest.argmax())
    return places


def hasten() -> None:
    """Let syne-tune use the two functions above, once they returned what its own did."""
    draws = np.random.default_rng(0)
    for rows in (1, 2, 5, 40, 200):
        for objectives in (draws.random((rows, 3)), draws.integers(0, 5, (rows, 3)).astype(float)):
            for ours, theirs, more in (
                (pareto_efficient, non_dominated_priority.pareto_efficient, {}),
                (compute_epsilon_net, non_dominated_priority.compute_epsilon_net, {"dim": 0}),
                (compute_epsilon_net, non_dominated_priority.compute_epsilon_net, {"dim": None}),
            ):
                np.random.seed(rows)
                expected, next_draw = theirs(objectives, **more), np.random.random()
                np.random.seed(rows)
                if not np.array_equal(ours(objectives, **more), expected) or np.random.random() != next_draw:
                    raise RuntimeError(f"{theirs.__name__} of this syne-tune is another one: remove hasten()")
    non_dominated_priority.pareto_efficient = pareto_efficient
    non_dominated_priority.compute_epsilon_net = compute_epsilon_net


def _domain(entry: Mapping[str, Any]) -> Domain:
    if "values" in entry:
        return choice(list(range(len(entry["values"]))))  # Places, since it wants values of one type.
    return _DISTRIBUTIONS[entry["distribution"]](entry["min"], entry["max"])


def assignment(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values that MOASHA's ``config`` stands for."""
    return {
        path: entry["values"][config[path]] if "values" in entry else config[path] for path, entry in parameters.items()
    }


def ranks(objectives: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rank of each row of ``objectives``, ``(n, objectives)``, by fronts and within a front by an epsilon-net.

    It is what the bracket of version 0.16.0 takes its priorities for; there, they are the rows in the order of their
    ranks, so that a trial's fate is not that of its own rank.
    """
    found = np.empty(len(objectives), dtype=np.int64)
    rest = np.arange(len(objectives))
    while len(rest):
        efficient = pareto_efficient(objectives[rest])
        front = rest[efficient]
        found[front] = len(objectives) - len(rest) + compute_epsilon_net(objectives[front], dim=0)
        rest = rest[~efficient]
    return found


def main() -> None:
    """Answer until the input ends, in the order of calls of syne-tune's own tuner."""
    hasten()
    messages = map(json.loads, sys.stdin)
    settings = next(messages)
    scheduler = build(settings)
    trials: dict[int, Trial] = {}
    for message in messages:
        number = message["trial"]
        if "result" not in message:
            config = scheduler.suggest().config
            trials[number] = Trial(number, config, datetime.now())
            scheduler.on_trial_add(trials[number])
            answer: object = assignment(config, settings["parameters"])
        else:
            answer = scheduler.on_trial_result(trials[number], message["result"]) == SchedulerDecision.STOP
            if answer:
                scheduler.on_trial_remove(trials.pop(number))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
