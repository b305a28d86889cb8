"""Early stopping: rules that decide after an epoch whether a trial goes on. They know neither Ray nor clocks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

from search import columns

Objectives = Mapping[str, float]
"""A trial's values under the keys of :data:`columns.OBJECTIVES`."""


class StoppingRule(Protocol):
    """Decides from what trials reported; deterministic in the order of the reports.

    State is only what :meth:`report` saw, so reporting the recorded epochs again restores it after a restart.
    """

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> str | None:
        """Take note of a trial's ``objectives`` at ``epoch``; the reason to stop it, or none to go on.

        ``objectives`` has the keys of :data:`columns.OBJECTIVES`; a NaN counts as worse than any number.
        Reporting an epoch again changes nothing and gives the same answer for a trial that was stopped there.
        """


class NoStopping:
    """Every trial runs to its full budget."""

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> str | None:  # noqa: ARG002
        """Never stops."""
        return None


class SuccessiveHalving(ABC):
    """Asynchronous successive halving, the stopping variant (Li et al. 2020, arXiv 1810.05934).

    Rungs lie at ``grace_epochs * eta ** k`` epochs below the full budget. A trial that reports at a rung goes on if
    it is among the best 1/eta of those recorded there so far, itself included, in the sense of :meth:`judge`; the
    first ``eta - 1`` trials of a rung have too few peers to be judged and go on. Only the rung's own epoch is
    recorded, never a later one. A NaN is stopped at any rung.
    """

    def __init__(self, eta: int, grace_epochs: int, epochs: int) -> None:
        if eta < 2 or grace_epochs < 1 or epochs < 1:
            raise ValueError(
                f"eta >= 2, grace_epochs >= 1 and epochs >= 1 expected, got {eta}, {grace_epochs}, {epochs}"
            )
        self.eta = eta
        self.rungs: dict[int, dict[str, Objectives]] = {}
        """Epoch of each rung to what is recorded there by trial; mIoU is -inf where it was not a number."""
        rung = grace_epochs
        while rung < epochs:
            self.rungs[rung] = {}
            rung *= eta
        self._stopped: dict[tuple[str, int], str] = {}

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> str | None:
        """See :class:`StoppingRule`."""
        rung = self.rungs.get(epoch)
        if rung is None:
            return None
        if trial_id in rung:
            return self._stopped.get((trial_id, epoch))
        unknown = math.isnan(objectives[columns.MIOU])
        rung[trial_id] = {**objectives, columns.MIOU: -math.inf} if unknown else dict(objectives)
        if unknown:
            reason: str | None = f"mIoU is not a number at epoch {epoch}"
        else:
            reason = None if len(rung) < self.eta else self.judge(rung, trial_id, epoch)
        if reason is not None:
            self._stopped[trial_id, epoch] = reason
        return reason

    @abstractmethod
    def judge(self, rung: Mapping[str, Objectives], trial_id: str, epoch: int) -> str | None:
        """Why the trial is not among the best 1/eta of the rung; none where it is."""


class Asha(SuccessiveHalving):
    """:class:`SuccessiveHalving` on mIoU alone: small fast models must keep up with large ones, or end."""

    def judge(self, rung: Mapping[str, Objectives], trial_id: str, epoch: int) -> str | None:
        """See :class:`SuccessiveHalving`."""
        ranked = sorted((objectives[columns.MIOU] for objectives in rung.values()), reverse=True)
        needed, miou = ranked[len(rung) // self.eta - 1], rung[trial_id][columns.MIOU]
        if miou >= needed:
            return None
        return f"mIoU {miou:.3f} at epoch {epoch} is below {needed:.3f}, the best 1/{self.eta} of {len(rung)} trials"
