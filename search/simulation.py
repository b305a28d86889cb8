"""A search on recorded learning curves and a simulated clock: the real sampler and stopping rule, without training."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search import columns
from search.config import SamplerConfig, SchedulerConfig
from search.progress import hypervolume_steps
from search.recorded import Curve, Recording
from search.sampler import Draw, Sampler
from search.schedulers import HALVING, build_stopping


@dataclass(frozen=True)
class Policy:
    """How a search chooses and stops."""

    sampler: SamplerConfig
    scheduler: SchedulerConfig

    @property
    def name(self) -> str:
        """For a table: ``tpe, pareto_asha eta 3 grace 1``."""
        rule = self.scheduler
        brackets = f" brackets {rule.brackets}" if rule.brackets > 1 else ""
        eta = f" eta {rule.eta}" if rule.name in HALVING else ""
        rungs = "" if rule.name == "none" else f"{eta} grace {rule.grace_epochs}{brackets}"
        unread = rule.name == "none" or self.sampler.name in ("ehvi", "random")
        told = "" if unread or self.sampler.stopped == "constraint" else f" told {self.sampler.stopped}"
        return f"{self.sampler.name}, {rule.name}{rungs}{told}"


@dataclass
class Replay:
    """What came of one replayed search."""

    trials: int = 0
    """Started."""
    clock_s: float = 0.0
    """Simulated time of its end."""
    epochs: int = 0
    """Spent by all trials."""
    spent: list[int] = field(default_factory=list)
    """Epochs spent when each trial completed."""
    completed: list[Curve] = field(default_factory=list)
    """Curve of each trial that completed, in that order."""
    distances: list[float] = field(default_factory=list)
    """How unlike each draw was to the configuration whose curve stood in for it."""

    def hypervolume(self, recording: Recording, at: Sequence[float], *, log_costs: bool = False) -> NDArray[np.float64]:
        """Hypervolume of the completed trials after so many epochs, each in ``at``; shape ``(len(at),)``.

        As :func:`search.objectives.hypervolume` has it, from the recording's corner; with ``log_costs`` over the
        logarithms of latency and size, from the least in the recording, so that each halving counts the same.
        """
        names = [columns.LATENCY_MS, columns.SIZE_MB]
        rows = [[best_miou(curve.mious), *(curve.costs[name] for name in names)] for curve in self.completed]
        values = np.array(rows, dtype=np.float64).reshape(-1, 3)
        corner = dict(recording.reference)
        if log_costs:
            for axis, name in enumerate(names, start=1):
                least = min(curve.costs[name] for curve in recording.curves)
                values[:, axis] = np.log(values[:, axis] / least) / math.log(corner[name] / least)
                corner[name] = 1.0
        costs = np.array(self.spent, dtype=np.float64)
        steps = list(hypervolume_steps(values, costs, [curve.trial_id for curve in self.completed], corner))
        return np.array([max((step.value for step in steps if step.spent_s <= moment), default=0.0) for moment in at])


@dataclass(frozen=True)
class _Running:
    draw: Draw
    curve: Curve


def simulate(recording: Recording, policy: Policy, *, workers: int, epochs: int, seed: int) -> Replay:
    """Search until ``epochs`` are spent, or the space is; trials that run then are left where they are.

    Args:
        recording: whose curves stand in for training.
        policy: what chooses and stops.
        workers: trials at a time.
        epochs: spent by all trials together.
        seed: of the sampler.
    """
    sampler = Sampler(None, recording.space, policy.sampler, seed, epochs=recording.epochs, costs=recording.cost)
    stopping = build_stopping(policy.scheduler, recording.epochs)
    replay = Replay()
    events: list[tuple[float, int, int]] = []
    running: dict[int, _Running] = {}

    def start() -> None:
        draw = sampler.ask()
        if draw is not None:
            curve, away = recording.nearest(draw.assignment)
            running[replay.trials] = _Running(draw, curve)
            heapq.heappush(events, (replay.clock_s + curve.epoch_time_s[0], replay.trials, 1))
            replay.trials += 1
            replay.distances.append(away)

    for _ in range(workers):
        start()
    while events and replay.epochs < epochs:
        replay.clock_s, number, epoch = heapq.heappop(events)
        replay.epochs += 1
        trial = running[number]
        report = trial.draw.trial_id, epoch, _objectives(trial.curve, epoch)
        sampler.report(*report)
        if _ends(trial, epoch, sampler, stopping.report(*report)):
            if epoch == recording.epochs and not math.isnan(best_miou(trial.curve.mious)):
                replay.spent.append(replay.epochs)
                replay.completed.append(trial.curve)
            del running[number]
            start()
        else:
            heapq.heappush(events, (replay.clock_s + trial.curve.epoch_time_s[epoch], number, epoch + 1))
    return replay


def _ends(trial: _Running, epoch: int, sampler: Sampler, reason: str | None) -> bool:
    """Whether the trial ends after this epoch; then the sampler is told as a search tells it."""
    curve, trial_id = trial.curve, trial.draw.trial_id
    top = best_miou(curve.mious[:epoch])
    if reason is None and epoch < len(curve.mious):
        return False
    if math.isnan(top):
        sampler.tell_failed(trial_id, "no mIoU was a number")
    elif reason is None:
        sampler.tell_completed(trial_id, {columns.MIOU: top, **curve.costs})
    else:
        sampler.tell_stopped(trial_id, {columns.MIOU: top, **curve.costs}, 1 - epoch / len(curve.mious), reason)
    return True


def _objectives(curve: Curve, epoch: int) -> dict[str, float]:
    return {columns.MIOU: curve.mious[epoch - 1], **curve.costs}


def best_miou(mious: Sequence[float]) -> float:
    """The highest, as the row of a trial has it; NaN where none is a number."""
    return max((miou for miou in mious if not math.isnan(miou)), default=math.nan)
