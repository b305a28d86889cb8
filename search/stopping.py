"""Early stopping: rules that decide after an epoch whether a trial goes on. They know neither Ray nor clocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from search import columns
from search.config import SchedulerConfig


class StoppingRule(Protocol):
    """Decides from what trials reported; deterministic in the order of the reports.

    State is only what :meth:`report` saw, so reporting the recorded epochs again restores it after a restart.
    """

    def report(self, trial_id: str, epoch: int, objectives: Mapping[str, float]) -> str | None:
        """Take note of a trial's ``objectives`` at ``epoch``; the reason to stop it, or none to go on.

        ``objectives`` has the keys of :data:`columns.OBJECTIVES`; a NaN counts as worse than any number.
        Reporting an epoch again changes nothing and gives the same answer for a trial that was stopped there.
        """


class NoStopping:
    """Every trial runs to its full budget."""

    def report(self, trial_id: str, epoch: int, objectives: Mapping[str, float]) -> str | None:  # noqa: ARG002
        """Never stops."""
        return None


class Asha:
    """Asynchronous successive halving on mIoU alone (Li et al. 2020, arXiv 1810.05934, the stopping variant).

    Rungs lie at ``grace_epochs * eta ** k`` epochs below the full budget. A trial that reports at a rung goes on if
    its mIoU is among the best 1/eta of those recorded there so far, itself included; the first ``eta - 1`` trials
    of a rung have too few peers to be judged and go on. Only the rung's own epoch is recorded, never a later one.
    A NaN is stopped at any rung.
    """

    def __init__(self, eta: int, grace_epochs: int, epochs: int) -> None:
        if eta < 2 or grace_epochs < 1 or epochs < 1:
            raise ValueError(
                f"eta >= 2, grace_epochs >= 1 and epochs >= 1 expected, got {eta}, {grace_epochs}, {epochs}"
            )
        self.eta = eta
        self.rungs: dict[int, dict[str, float]] = {}
        """Epoch of each rung to the mIoU recorded there by trial."""
        rung = grace_epochs
        while rung < epochs:
            self.rungs[rung] = {}
            rung *= eta
        self._stopped: dict[tuple[str, int], str] = {}

    def report(self, trial_id: str, epoch: int, objectives: Mapping[str, float]) -> str | None:
        """See :class:`StoppingRule`."""
        rung = self.rungs.get(epoch)
        if rung is None:
            return None
        if trial_id in rung:
            return self._stopped.get((trial_id, epoch))
        miou = objectives[columns.MIOU]
        rung[trial_id] = -math.inf if math.isnan(miou) else miou
        reason = self._judge(rung, rung[trial_id], epoch)
        if reason is not None:
            self._stopped[trial_id, epoch] = reason
        return reason

    def _judge(self, rung: Mapping[str, float], miou: float, epoch: int) -> str | None:
        if miou == -math.inf:
            return f"mIoU is not a number at epoch {epoch}"
        if len(rung) < self.eta:
            return None
        needed = sorted(rung.values(), reverse=True)[len(rung) // self.eta - 1]
        if miou >= needed:
            return None
        return f"mIoU {miou:.3f} at epoch {epoch} is below {needed:.3f}, the best 1/{self.eta} of {len(rung)} trials"


def build_stopping(config: SchedulerConfig, epochs: int) -> StoppingRule:
    """The rule that ``config`` names, for trials of ``epochs``."""
    if config.name == "none":
        return NoStopping()
    return Asha(config.eta, config.grace_epochs, epochs)
