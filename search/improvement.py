"""Expected improvement of a front's hypervolume when all objectives but one are known: a closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]


def expected_improvement(means: Floats, spreads: Floats, costs: Floats, mious: Floats, others: Floats) -> Floats:
    """How much hypervolume each candidate is expected to add to a front.

    A candidate of costs c and mIoU m adds, over every cost u between c and the corner, the part of m above the height
    of the front there: the integral of max(0, m - h(u)). The height is constant in the cells between the costs of the
    front's members, so with a normal m the expectation is a sum of expected improvements, one a cell, times its area.

    Args:
        means: expected mIoU of the candidates, shape ``(n,)``.
        spreads: its standard deviation, shape ``(n,)``, positive.
        costs: of the candidates, shape ``(n, 2)``, each below the corner ``(1, 1)``.
        mious: of the front's members, dominated ones allowed, shape ``(k,)``.
        others: their costs, shape ``(k, 2)``.

    Returns:
        Shape ``(n,)``; mIoU counts from 0.
    """
    worth = np.empty(len(means))
    distinct, which = np.unique(costs, axis=0, return_inverse=True)
    for place, cost in enumerate(distinct):
        chosen = np.flatnonzero(which.ravel() == place)
        areas, heights = _cells(cost, mious, others)
        mean, spread = means[chosen, None], spreads[chosen, None]
        deviation = (mean - heights) / spread
        density = np.exp(-(deviation**2) / 2) / np.sqrt(2 * np.pi)
        worth[chosen] = spread[:, 0] * ((deviation * ndtr(deviation) + density) @ areas)
    return worth


def _cells(cost: Floats, mious: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Area of each cell between ``cost`` and the corner, and the height of the front in it."""
    edges = [
        np.unique(
            np.concatenate(([cost[axis], 1.0], others[(others[:, axis] > cost[axis]) & (others[:, axis] < 1), axis]))
        )
        for axis in (0, 1)
    ]
    first, second = (edge[:-1] for edge in edges)
    below = (others[:, 0, None, None] <= first[:, None]) & (others[:, 1, None, None] <= second[None, :])
    heights = np.max(np.where(below, mious[:, None, None], 0.0), axis=0, initial=0.0)
    areas = np.outer(np.diff(edges[0]), np.diff(edges[1]))
    return areas.ravel(), heights.ravel()
