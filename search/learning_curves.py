"""Learning curves while a search goes on: what the trials that completed tell of those that have not."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
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
        self._latencies: list[float] = []
        """Of these, each once, rising."""
        self._places: defaultdict[float, list[int]] = defaultdict(list)
        """Of each such latency the places in ``completed``."""
        self._best: list[Curve] = []
        """Of ``completed`` those that no other is as good as in all of mIoU, latency and size."""
        self._of_all: dict[int, Floats] = {}
        """What all of ``completed`` gained from an epoch on, where it was asked for."""

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
            self._complete(curve)

    def peers(self, latency_ms: float) -> list[Curve]:
        """The completed trials nearest in latency, nearest first; at most :data:`PEERS`, none beyond :data:`NEAR`."""
        middle = bisect_left(self._latencies, latency_ms)
        near = self._latencies[max(0, middle - PEERS) : middle + PEERS]
        # The newer of equals: their learning rates and the like are nearer to what is tried now.
        places = np.array([place for other in near for place in self._places[other][-PEERS:]], dtype=np.int64)
        away = np.abs(np.log([self.completed[place].latency_ms for place in places]) - math.log(latency_ms))
        order = np.lexsort((-places, away))[:PEERS]
        return [self.completed[places[number]] for number in order if away[number] <= NEAR]

    def gains(self, curve: Curve) -> Floats:
        """What each of the trial's peers gained from the epoch that the trial has reached to its end."""
        return np.array([peer.best[-1] - peer.best[curve.epoch - 1] for peer in self.peers(curve.latency_ms)])

    def expected(self, curve: Curve) -> tuple[float, float] | None:
        """The mIoU that an unfinished trial is expected to end with, and its standard deviation; none from no trial.

        Where it has too few peers, all completed trials speak for it.
        """
        gains = self.gains(curve)
        if len(gains) < FEWEST:
            gains = self._gains_of_all(curve.epoch)
        if not len(gains):
            return None
        return curve.best[-1] + float(gains.mean()), max(float(gains.std()), LEAST_SPREAD)

    def needed(self, curve: Curve) -> float:
        """The highest mIoU that a completed model at most as slow and as large reached; -inf where there is none."""
        return max((other.best[-1] for other in self._best if _as_cheap(other, curve)), default=-math.inf)

    def _gains_of_all(self, epoch: int) -> Floats:
        if epoch not in self._of_all:
            self._of_all[epoch] = np.array([other.best[-1] - other.best[epoch - 1] for other in self.completed])
        return self._of_all[epoch]

    def _complete(self, curve: Curve) -> None:
        self._of_all.clear()
        if curve.latency_ms not in self._places:
            insort(self._latencies, curve.latency_ms)
        self._places[curve.latency_ms].append(len(self.completed))
        self.completed.append(curve)
        if curve.best[-1] > self.needed(curve):
            lasting = [other for other in self._best if other.best[-1] > curve.best[-1] or not _as_cheap(curve, other)]
            self._best = [*lasting, curve]


def _as_cheap(curve: Curve, other: Curve) -> bool:
    """Whether the first is at most as slow and as large as the second."""
    return curve.latency_ms <= other.latency_ms and curve.size_mb <= other.size_mb
