"""What to try next when latency and size are known and only mIoU must be learned.

Latency and size of an architecture are measured before anything trains, so of the three objectives two need no model.
A Gaussian process learns mIoU from the trials so far, and the next one is where the hypervolume of the front is
expected to grow the most.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import moocore
import numpy as np

from search.encoding import Encoding, identity
from search.improvement import Floats, expected_improvement
from spaces import Assignment, Space

FEWEST = 4
"""Values of mIoU below which there is nothing to fit."""
MOST = 200
"""Trials that the process is fitted to: the cost grows with their cube."""
CANDIDATES = 1_000
"""Draws that are compared, where the space has more configurations or endless ones."""
NEIGHBOURS = 20
"""Further ones beside each member of the front: the same but for one parameter."""
MARGIN = 1.1
"""The corner of the hypervolume lies this far beyond the largest latency and size."""
ARCHITECTURE = ("model.", "data.")
"""Paths of the parameters that latency and size depend on."""


@dataclass(frozen=True)
class Cost:
    """What is known of an architecture before it trains."""

    latency_ms: float
    size_mb: float
    feasible: bool = True
    """Whether it keeps the constraints of the search."""


Costs = Callable[[Assignment], Cost | None]
"""The cost of a configuration; none while its architecture was not measured."""


@dataclass(frozen=True)
class Tried:
    """A configuration that was drawn."""

    assignment: Assignment
    miou: float | None = None
    """At its end, or as it is expected to be; none while nothing is known."""
    spread: float = 0.0
    """Standard deviation of that expectation."""
    member: bool = True
    """Whether it has a place on the front, or may get one: it completed, or it runs."""

    @cached_property
    def identity(self) -> str:
        """See :func:`search.encoding.identity`."""
        return identity(self.assignment)

    @cached_property
    def architecture(self) -> str:
        """See :func:`architecture_part`."""
        return architecture_part(self.assignment)


class Ehvi:
    """Expected hypervolume improvement (Emmerich, Giannakoglou and Naujoks 2006, "Single- and multiobjective
    evolutionary optimization assisted by Gaussian random field metamodels") with known costs.

    Hypervolume is that of the report, linear in all objectives. (A search for that over the logarithms of latency and
    size was behind in every replay, and by its own measure not ahead.) Trials that run count as if they had ended as
    expected, so those drawn meanwhile differ. No configuration is proposed twice, and none whose architecture is known
    to break a constraint.
    """

    def __init__(self, space: Space, costs: Costs, startup_trials: int, seed: int) -> None:
        self._space, self._costs, self._startup, self._seed = space, costs, startup_trials, seed
        self._encoding = Encoding(space)
        self._architectures = Encoding(space, ARCHITECTURE)
        self._all = space.enumerate(limit=CANDIDATES)
        self._measured: dict[str, Cost] = {}
        """Architecture to its cost, as far as it was asked for in this draw."""

    def propose(self, tried: Sequence[Tried]) -> Assignment | None:
        """The next configuration; none when all of a finite space were tried or are infeasible.

        Depends on ``tried`` and the seed alone, so a search that was interrupted goes on as it would have.
        """
        chance = random.Random(f"{self._seed}/{len(tried)}")
        self._measured.clear()
        members = [trial for trial in tried if trial.member]
        front = self._best(members)
        candidates = self._candidates(tried, front, chance)
        if not candidates:
            return None
        learned = sum(trial.miou is not None for trial in tried)
        # Failures alone, of architectures that were never measured, say neither what is good nor what it costs.
        if len(tried) < self._startup or learned < FEWEST or not front:
            return self._balanced(candidates, tried, chance)
        chance.shuffle(candidates)  # Among equals none is preferred for its place.
        return candidates[int(np.argmax(self._worth(candidates, tried, members, front)))]

    def _worth(
        self, candidates: Sequence[Assignment], tried: Sequence[Tried], members: Sequence[Tried], front: Sequence[Tried]
    ) -> Floats:
        """Expected improvement of the hypervolume by each candidate."""
        # scikit-learn takes as long to import as Ray: a search should not wait for it before its first trials run.
        from search.surrogate import Surrogate  # noqa: PLC0415

        learned = _surest([trial for trial in tried if trial.miou is not None])
        surrogate = Surrogate(
            self._encoding([trial.assignment for trial in learned]),
            np.array([trial.miou for trial in learned]),
            np.array([trial.spread for trial in learned]),
        )
        # What the front dominates adds nothing; where a cost is a guess, nobody knows.
        guessed = {trial.architecture for trial in members} - self._measured.keys()
        known = [*front, *(trial for trial in members if trial.miou is not None and trial.architecture in guessed)]
        pending = [trial.assignment for trial in members if trial.miou is None]
        mious = np.append([trial.miou for trial in known], surrogate.believe(self._encoding(pending)))
        means, spreads = surrogate.predict(self._encoding(candidates))
        costs = self._scaled([*candidates, *(trial.assignment for trial in known), *pending], tried)
        return expected_improvement(means, spreads, costs[: len(candidates)], mious, costs[len(candidates) :])

    def _candidates(self, tried: Sequence[Tried], front: Sequence[Tried], chance: random.Random) -> list[Assignment]:
        """Configurations that may be feasible and were not drawn yet, once each."""
        found = self._all
        if found is None:
            found = [self._space.draw(chance) for _ in range(CANDIDATES)]
            for trial in front:
                found += [self._beside(trial.assignment, chance) for _ in range(NEIGHBOURS)]
        drawn = {trial.identity for trial in tried}
        left = {identity(item): item for item in found}
        known = self._known_costs({architecture_part(item): item for item in found})
        refused = {key for key, cost in known.items() if not cost.feasible}
        return [item for key, item in left.items() if key not in drawn and architecture_part(item) not in refused]

    def _best(self, members: Sequence[Tried]) -> list[Tried]:
        """The front of what completed or is expected to."""
        known = self._known_costs({trial.architecture: trial.assignment for trial in members})
        rows = [trial for trial in members if trial.miou is not None and trial.architecture in known]
        if not rows:
            return []
        costs = [known[trial.architecture] for trial in rows]
        points = np.column_stack(
            (
                [trial.miou for trial in rows],
                [cost.latency_ms for cost in costs],
                [cost.size_mb for cost in costs],
            )
        )
        inside = moocore.is_nondominated(points, maximise=[True, False, False])
        return [trial for trial, good in zip(rows, inside, strict=True) if good]

    def _beside(self, assignment: Assignment, chance: random.Random) -> Assignment:
        """The same but for one parameter, drawn anew."""
        changed = chance.choice(sorted(assignment))
        return self._space.draw(chance, {path: value for path, value in assignment.items() if path != changed})

    def _balanced(self, candidates: list[Assignment], tried: Sequence[Tried], chance: random.Random) -> Assignment:
        """A candidate at random, of an architecture tried least often."""
        counts = Counter(trial.architecture for trial in tried)
        least = min(counts[architecture_part(item)] for item in candidates)
        rare = sorted({key for item in candidates if counts[key := architecture_part(item)] == least})
        chosen = chance.choice(rare)
        return chance.choice([item for item in candidates if architecture_part(item) == chosen])

    def _scaled(self, assignments: Sequence[Assignment], tried: Sequence[Tried]) -> Floats:
        """Latency and size as shares of the corner's, which lies a little beyond the largest known ones.

        An architecture that was not measured counts as the most similar one that was; shape ``(len(assignments), 2)``.
        """
        parts = [architecture_part(item) for item in assignments]
        examples = dict(zip(parts, assignments, strict=True))
        examples |= {trial.architecture: trial.assignment for trial in tried}
        known = self._known_costs(examples)
        costs = {key: np.array([cost.latency_ms, cost.size_mb]) for key, cost in known.items()}
        corner = MARGIN * np.max([costs[key] for key, cost in known.items() if cost.feasible], axis=0)
        places = self._architectures([examples[key] for key in known])
        for key in examples.keys() - known.keys():
            away = np.abs(places - self._architectures([examples[key]])).sum(axis=1)
            costs[key] = costs[list(known)[int(away.argmin())]]
        scaled: Floats = np.array([costs[part] for part in parts]) / corner
        return scaled

    def _known_costs(self, examples: Mapping[str, Assignment]) -> Mapping[str, Cost]:
        """Of the architectures, each with a configuration that has it, those that were measured."""
        for key in examples.keys() - self._measured.keys():
            cost = self._costs(examples[key])
            if cost is not None:
                self._measured[key] = cost
        return {key: self._measured[key] for key in examples if key in self._measured}


def _surest(learned: Sequence[Tried]) -> list[Tried]:
    """What the model is fitted to: the surest, and of equals the newest, which lie where the search is now."""
    spreads = np.array([trial.spread for trial in learned])
    return [learned[place] for place in np.lexsort((-np.arange(len(learned)), spreads))[:MOST]]


def architecture_part(assignment: Assignment) -> str:
    """The same text for configurations of equal latency and size."""
    return identity({path: value for path, value in assignment.items() if path.startswith(ARCHITECTURE)})
