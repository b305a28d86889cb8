"""Early stopping: rules that decide after an epoch whether a trial goes on. They know neither Ray nor clocks."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Protocol

from search import columns
from search.repeats import split_id

_GOLDEN = (math.sqrt(5) - 1) / 2
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

    Rungs lie at the epochs of :func:`rung_epochs`. A trial that reports at a rung goes on if it is among the best
    1/eta of those recorded there so far, itself included, in the sense of :meth:`judge`; the first ``eta - 1`` trials
    of a rung have too few peers to be judged and go on. Only the rung's own epoch is recorded, never a later one. A
    NaN is stopped at any rung.

    With several ``brackets``, bracket s of 0, 1, ... lacks the first s rungs and has rungs and peers of its own: what
    starts slowly has a chance there. The number in a trial's id says to which bracket it belongs, so ids must be those
    of :class:`~search.sampler.Sampler`; with one bracket any id will do.

    Raises:
        ValueError: settings that cannot be, among them more brackets than rungs.
    """

    def __init__(self, eta: int, grace_epochs: int, epochs: int, brackets: int = 1) -> None:
        if eta < 2 or not 1 <= grace_epochs <= epochs:
            raise ValueError(
                f"eta >= 2 and 1 <= grace_epochs <= epochs expected, got {eta}, {grace_epochs} and {epochs}"
            )
        rungs = rung_epochs(eta, grace_epochs, epochs)
        if not 1 <= brackets <= max(1, len(rungs)):
            raise ValueError(f"at least 1 bracket and at most one a rung of {rungs} expected, got {brackets}")
        self.eta = eta
        self.brackets: list[dict[int, dict[str, Objectives]]] = [
            {epoch: {} for epoch in rungs[bracket:]} for bracket in range(brackets)
        ]
        """For each bracket: epoch of a rung to what is recorded there by trial; mIoU is -inf where it was no number."""
        self._bounds = list(itertools.accumulate(bracket_shares(rungs, brackets)))[:-1]
        self._stopped: dict[tuple[str, int], str] = {}

    def bracket_of(self, trial_id: str) -> int:
        """The bracket of a trial, from its id alone.

        Multiples of the golden ratio, without their whole part, fill [0, 1) evenly from the first ones on and never
        repeat, so that no rhythm of the draws meets one of the brackets. Each bracket has its share of that interval.
        """
        if len(self.brackets) == 1:
            return 0
        number = int(split_id(trial_id)[0].removeprefix("t"))
        return bisect(self._bounds, number * _GOLDEN % 1)

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> str | None:
        """See :class:`StoppingRule`."""
        rungs = self.brackets[self.bracket_of(trial_id)]
        rung = rungs.get(epoch)
        if rung is None:
            return None
        if trial_id in rung:
            return self._stopped.get((trial_id, epoch))
        unknown = math.isnan(objectives[columns.MIOU])
        rung[trial_id] = {**objectives, columns.MIOU: -math.inf} if unknown else dict(objectives)
        reason = f"mIoU is not a number at epoch {epoch}" if unknown else self._verdict(rungs, trial_id, epoch)
        if reason is not None:
            self._stopped[trial_id, epoch] = reason
        return reason

    def _verdict(self, rungs: Mapping[int, Mapping[str, Objectives]], trial_id: str, epoch: int) -> str | None:
        rung = rungs[epoch]
        reason = None if len(rung) < self.eta else self.judge(rung, trial_id, epoch)
        if reason is None or len(self.brackets) == 1:
            return reason
        return f"{reason}, in the bracket that begins at epoch {min(rungs)}"

    @abstractmethod
    def judge(self, rung: Mapping[str, Objectives], trial_id: str, epoch: int) -> str | None:
        """Why the trial is not among the best 1/eta of the rung; none where it is."""


def rung_epochs(eta: int, grace_epochs: int, epochs: int) -> list[int]:
    """Where trials are judged: at ``grace_epochs * eta ** k`` for k = 0, 1, ..., below the full budget ``epochs``."""
    rungs, rung = [], grace_epochs
    while rung < epochs:
        rungs.append(rung)
        rung *= eta
    return rungs


def bracket_shares(rungs: Sequence[int], brackets: int) -> list[float]:
    """The share of all trials that each bracket gets; they add up to 1. Without rungs there is one bracket.

    As Hyperband begins its brackets (Li et al. 2018, arXiv 1603.06560, algorithm 1): with numbers of trials in inverse
    proportion to the first rung and to the number of levels, the full budget included, so that all brackets spend
    about the same epochs. The asynchronous Hyperband of syne-tune draws brackets with the same probabilities.
    """
    if not rungs:
        return [1.0]
    weights = [1 / (rungs[bracket] * (len(rungs) + 1 - bracket)) for bracket in range(brackets)]
    return [weight / sum(weights) for weight in weights]


class Asha(SuccessiveHalving):
    """:class:`SuccessiveHalving` on mIoU alone: small fast models must keep up with large ones, or end."""

    def judge(self, rung: Mapping[str, Objectives], trial_id: str, epoch: int) -> str | None:
        """See :class:`SuccessiveHalving`."""
        ranked = sorted((objectives[columns.MIOU] for objectives in rung.values()), reverse=True)
        needed, miou = ranked[len(rung) // self.eta - 1], rung[trial_id][columns.MIOU]
        if miou >= needed:
            return None
        return f"mIoU {miou:.3f} at epoch {epoch} is below {needed:.3f}, the best 1/{self.eta} of {len(rung)} trials"
