"""Trials whose process was lost, or that found too little GPU memory: which start again, and why the others do not.

Whatever starts again goes on from its last checkpoint. Nothing of this is on disk: after a restart of the search a
trial that did not end begins with all its retries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from ray.exceptions import ActorUnavailableError

from search.resources import Share
from trainers.distributed import WorkerLostError

PROCESS_RETRIES = 2
"""How often a trial whose process died on a healthy node goes on before it counts as failed."""
_OUT_OF_GPU_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""What torch, the CUDA runtime, and cuDNN and cuBLAS say."""


class Retries:
    """Counts what happened to each trial."""

    def __init__(self, lost_nodes: Callable[[], frozenset[str]]) -> None:
        """``lost_nodes``: asks the cluster which of its nodes were lost so far."""
        self._lost_nodes = lost_nodes
        self._deaths: defaultdict[str, int] = defaultdict(int)
        self._last_nodes: dict[str, frozenset[str]] = {}
        self._shares: dict[str, tuple[Share, Share]] = {}
        """Of trials that were out of memory: what they had first and have now."""

    def share(self, trial_id: str, usual: Share) -> Share:
        """What the trial gets, which usually has ``usual``."""
        return self._shares[trial_id][1] if trial_id in self._shares else usual

    def process_lost(self, trial_id: str, share: Share, error: BaseException | None) -> str | None:
        """The trial's process is gone, which had ``share``: why the trial failed, None when it starts again.

        The loss of a node does not count. Where all that is known is that a connection broke, to the trial's process
        or between its workers, it was the node's if the cluster has lost one since the last time; it takes Ray a while
        to find out.
        """
        if _is_out_of_memory(str(error)):
            return self.out_of_memory(trial_id, share, _cause(error))
        if self._node_was_lost(trial_id, error):
            return None
        self._deaths[trial_id] += 1
        if self._deaths[trial_id] <= PROCESS_RETRIES:
            return None
        return f"The trial's process died {self._deaths[trial_id]} times, the last time so: {_cause(error)}"

    def out_of_memory(self, trial_id: str, share: Share, failure: str) -> str | None:
        """The trial failed while it had ``share``: why for good, None when it starts again with a larger part of a GPU.

        It does once, if memory was what it lacked and it shared its GPU.
        """
        if not _is_out_of_memory(failure):
            return failure
        if trial_id in self._shares:
            first, second = self._shares[trial_id]
            return f"Out of GPU memory with {first.gpus:g} of a GPU, and again with {second.gpus:g}. {failure}"
        larger = share.larger()
        if larger is None:
            return failure
        self._shares[trial_id] = share, larger
        return None

    def _node_was_lost(self, trial_id: str, error: BaseException | None) -> bool:
        if getattr(error, "preempted", False) or "its node has died" in str(error):
            return True
        broken = isinstance(getattr(error, "cause", error), ActorUnavailableError | WorkerLostError)
        if not broken or "worker process has died" in str(error):
            return False
        before, now = self._last_nodes.get(trial_id), self._lost_nodes()
        self._last_nodes[trial_id] = now
        return before != now


def _is_out_of_memory(failure: str) -> bool:
    return any(sign in failure for sign in _OUT_OF_GPU_MEMORY)


def _cause(error: BaseException | None) -> str:
    """The sentence of Ray's message that says how the process ended."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else "unknown"
