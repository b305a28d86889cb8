"""The cluster as it is now: what it has room for, and what is said while it has none for a trial."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from cluster.connect import alive_nodes
from cluster.nodes import ClusterError, Node
from search.resources import Share, fits

REFRESH_S = 1.0
"""Nodes come and go: what is known of them is at most so old."""
NOTICE_S = 10.0
"""A wait that is shorter is not worth a word."""
REPEAT_S = 1800.0
"""The user is told again so seldom that a night's wait does not fill the log."""


class Capacity:
    """Which nodes there are, looked up again as time passes."""

    def __init__(self, look: Callable[[], Sequence[Node]] = alive_nodes) -> None:
        """``look``: asks the cluster."""
        self._look = look
        self._looked_at = -float("inf")
        self._nodes: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are there, as of a moment ago."""
        if time.monotonic() - self._looked_at > REFRESH_S:
            self._nodes, self._looked_at = tuple(self._look()), time.monotonic()
        return self._nodes

    def has_room(self, shares: Mapping[Share, int]) -> bool:
        """Whether the cluster holds so many trials of each share, if all of it is the search's."""
        return fits(self.nodes, shares)


class Patience:
    """Tells the user when no trial can start, what is missing for it, and when it goes on; gives up after a while."""

    def __init__(
        self,
        say: Callable[[str], None],
        patience_s: float | None,
        capacity: Capacity,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``patience_s``: of :class:`~search.cluster_config.ClusterConfig`."""
        self._say, self._patience_s, self._capacity, self._clock = say, patience_s, capacity, clock
        self._since: float | None = None
        self._said_at: float | None = None
        self.gave_up: str | None = None
        """Why there was no going on, for people; None while there is hope."""
        self._held_up: set[tuple[str, str]] = set()

    def look(self, waiting: Share | None) -> None:
        """To be called again and again.

        Args:
            waiting: what the next thing to run waits for while nothing runs; None while something does.
        """
        now = self._clock()
        if waiting is None:
            if self._said_at is not None and self._since is not None:
                self._say(f"There is room again after {_time(now - self._since)}; the search goes on.")
            self._since = self._said_at = None
            return
        if self._since is None:
            self._since = now
        waited_s = now - self._since
        if self._patience_s is not None and waited_s >= self._patience_s:
            limit = f"for {_time(self._patience_s)}, as long as cluster.patience_s allows"
            self.gave_up = f"Nothing could start {limit}. {self._missing(waiting)}"
        elif waited_s >= NOTICE_S and (self._said_at is None or now - self._said_at >= REPEAT_S):
            self._said_at = now
            left_s = None if self._patience_s is None else self._patience_s - waited_s
            until = "; cluster.patience_s would limit that" if left_s is None else f" for {_time(left_s)} more at most"
            self._say(f"{self._missing(waiting)} The search waits{until}.")

    def hold_up(self, trial_id: str, why: str) -> None:
        """A trial has its resources, but cannot go on for now; said once."""
        if (trial_id, why) not in self._held_up:
            self._held_up.add((trial_id, why))
            self._say(f"{trial_id} waits: {why}")

    def await_node(self, task: ray.ObjectRef[Any], needs: Share) -> None:
        """Return once ``task`` is done; say so while no node of the cluster can run it.

        Raises:
            ClusterError: patience is over.
        """
        while not ray.wait([task], timeout=REFRESH_S)[0]:
            self.look(None if self._capacity.has_room({needs: 1}) else needs)
            if self.gave_up is not None:
                raise ClusterError(self.gave_up)
        self.look(None)

    def _missing(self, waiting: Share) -> str:
        nodes = self._capacity.nodes
        why = "other work has taken what the nodes have" if fits(nodes, {waiting: 1}) else "no nodes have that"
        return f"What is next needs {waiting.each()}, but {why}: there {describe_nodes(nodes)}."


def describe_nodes(nodes: Sequence[Node]) -> str:
    """For people: ``are 2 nodes of 8 cores and 1 GPU, 1 node of 4 cores``."""
    counts = Counter((node.cpus, node.gpus) for node in nodes)
    parts = []
    for (cpus, gpus), count in counts.most_common():
        cores = f"{cpus} core{'' if cpus == 1 else 's'}"
        beside = f" and {gpus} GPU{'' if gpus == 1 else 's'}" if gpus else ""
        parts.append(f"{count} node{'' if count == 1 else 's'} of {cores}{beside}")
    return f"{'is' if len(nodes) == 1 else 'are'} {', '.join(parts) or 'no nodes'}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
