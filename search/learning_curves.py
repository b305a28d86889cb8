"""Learning curves while a search goes on: what the trials that completed tell of those that have not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search import columns
from search.stopping import Objectives

Floats = NDArray[np.float64]

PEERS = 8
"""Completed trials that another one is expected to go on like, at most: those of the nearest latency."""
NEAR = 0.5
"""Largest difference of their latency, in the natural logarithm: 1.65 times as fast or as slow."""
FEWEST = 3
"""Peers that speak for a trial; fewer are chance."""
LEAST_SPREAD = 0.02
"""Standard deviation in mIoU that an extrapolated end has at least: about what another seed makes."""


@dataclass
class Curve:
    """One trial so far."""

    latency_ms: float
    size_mb: float
    best: list[float]
    """Highest mIoU until each epoch, from the first; a NaN counts as 0."""

    @property
    def epoch(self) -> int:
        """The last one reported."""
        return len(self.best)


class LearningCurves:
    """The curves of all trials of a search of ``epochs`` a trial; state is only what was reported."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.trials: dict[str, Curve] = {}
        self.completed: list[Curve] = []
        """Those that reached ``epochs``, in that order."""

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> None:
        """Take note of a trial's ``objectives`` at ``epoch``; an epoch reported again changes nothing."""
        curve = self.trials.get(trial_id)
        if curve is None:
            curve = Curve(objectives[columns.LATENCY_MS], objectives[columns.SIZE_MB], [])
            self.trials[trial_id] = curve
        if epoch <= curve.epoch:
            return
        miou = objectives[columns.MIOU]
        before = curve.best[-1] if curve.best else 0.0
        # An epoch without a report, as after a kill between two, is taken for as good as the one before.
        curve.best += [before] * (epoch - 1 - curve.epoch)
        curve.best.append(before if math.isnan(miou) else max(before, miou))
        if curve.epoch == self.epochs:
            self.completed.append(curve)

    def peers(self, latency_ms: float) -> list[Curve]:
        """The completed trials nearest in latency, nearest first; at most :data:`PEERS`, none beyond :data:`NEAR`."""
        if not self.completed:
            return []
        away = np.abs(np.log([curve.latency_ms for curve in self.completed]) - math.log(latency_ms))
        # The newer of equals: their learning rates and the like are nearer to what is tried now.
        order = np.lexsort((-np.arange(len(away)), away))[:PEERS]
        return [self.completed[place] for place in order if away[place] <= NEAR]

    def gains(self, curve: Curve) -> Floats:
        """What each of the trial's peers gained from the epoch that the trial has reached to its end."""
        return np.array([peer.best[-1] - peer.best[curve.epoch - 1] for peer in self.peers(curve.latency_ms)])

    def expected(self, curve: Curve) -> tuple[float, float] | None:
        """The mIoU that an unfinished trial is expected to end with, and its standard deviation; none from no trial.

        Where it has too few peers, all completed trials speak for it.
        """
        gains = self.gains(curve)
        if len(gains) < FEWEST:
            gains = np.array([other.best[-1] - other.best[curve.epoch - 1] for other in self.completed])
        if not len(gains):
            return None
        return curve.best[-1] + float(gains.mean()), max(float(gains.std()), LEAST_SPREAD)


def dominating(curve: Curve, others: Sequence[Curve]) -> float:
    """The highest mIoU that ``others`` reached with models at most as slow and as large; -inf where none is."""
    best = [
        other.best[-1] for other in others if other.latency_ms <= curve.latency_ms and other.size_mb <= curve.size_mb
    ]
    return max(best, default=-math.inf)
