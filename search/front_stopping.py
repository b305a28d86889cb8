"""Stopping for a Pareto front: a trial ends early once even a good finish would be dominated.

Rules with rungs rank trials by what they have at an epoch, so they end what starts slowly and finishes first, and need
many trials at a rung to tell. This one compares ends: what the trial would end with if it went on like the completed
trials of its kind, against what completed models have that are as fast and as small. Nothing that could still be on the
front is stopped for being behind at an epoch.
"""

from __future__ import annotations

import math

from scipy.special import stdtrit

from search import columns
from search.learning_curves import FEWEST, LEAST_SPREAD, Curve, Floats, LearningCurves
from search.stopping import Objectives

HOPE = 0.9
"""Chance that a trial gains less than what it is granted."""


class FrontStopping:
    """Stops a trial whose hoped-for end is dominated by a completed trial.

    The hoped-for end is the trial's highest mIoU so far plus what it may gain at most (:func:`hoped_gain`), by what its
    peers, the completed trials of the nearest latency, gained from that epoch to their end. A trial of fewer than
    :data:`FEWEST` peers goes on, and so does one that no completed model matches in both latency and size. From the
    epoch ``grace_epochs`` on every epoch is judged. A NaN is stopped at any of them.

    The idea of a predictive termination criterion is that of Domhan et al. 2015 ("Speeding up automatic hyperparameter
    optimization of deep neural networks by extrapolation of learning curves", IJCAI), there for one objective and with
    parametric curves.
    """

    def __init__(self, grace_epochs: int, epochs: int) -> None:
        if grace_epochs < 1 or epochs < 1:
            raise ValueError(f"grace_epochs >= 1 and epochs >= 1 expected, got {grace_epochs}, {epochs}")
        self._grace_epochs = grace_epochs
        self._curves = LearningCurves(epochs)
        self._stopped: dict[tuple[str, int], str] = {}

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> str | None:
        """See :class:`search.stopping.StoppingRule`."""
        known = self._curves.trials.get(trial_id)
        if known is not None and epoch <= known.epoch:
            return self._stopped.get((trial_id, epoch))
        self._curves.report(trial_id, epoch, objectives)
        if not self._grace_epochs <= epoch < self._curves.epochs:
            return None
        if math.isnan(objectives[columns.MIOU]):
            reason: str | None = f"mIoU is not a number at epoch {epoch}"
        else:
            reason = self._judge(self._curves.trials[trial_id])
        if reason is not None:
            self._stopped[trial_id, epoch] = reason
        return reason

    def _judge(self, curve: Curve) -> str | None:
        needed = self._curves.needed(curve)
        if curve.best[-1] > needed:
            return None
        gains = self._curves.gains(curve)
        if len(gains) < FEWEST:
            return None
        hoped = curve.best[-1] + hoped_gain(gains)
        if hoped >= needed:
            return None
        return (
            f"mIoU {curve.best[-1]:.3f} at epoch {curve.epoch} would hardly end above {hoped:.3f}, judged by the "
            f"{len(gains)} completed trials of the nearest latency; a model as fast and as small has {needed:.3f}"
        )


def hoped_gain(gains: Floats) -> float:
    """What one more trial of the kind gains at most, as far as a share of :data:`HOPE` can tell.

    The upper end of Student's prediction interval; few peers widen it, and so does their disagreement.
    """
    number = len(gains)
    spread = max(float(gains.std(ddof=1)), LEAST_SPREAD)
    return float(gains.mean() + stdtrit(number - 1, HOPE) * spread * math.sqrt(1 + 1 / number))
