"""syne-tune's MOASHA, asked and told through lines of JSON: run by :mod:`rival_policies`, in an environment of its own.

The first line holds the settings (see :func:`build`). Then each line is a trial's number, to be answered with its
configuration, or a number and a result, to be answered with whether the trial is stopped.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["syne-tune==0.16.0"]
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

import numpy as np
from numpy.typing import NDArray
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import Domain, choice, loguniform, randint, uniform
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import compute_epsilon_net, pareto_efficient

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
