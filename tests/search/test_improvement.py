"""Expected hypervolume improvement in closed form, against measured hypervolumes."""

from __future__ import annotations

import moocore
import numpy as np
import pytest

from search.improvement import Floats, expected_improvement


def hypervolume(mious: Floats, costs: Floats) -> float:
    points = np.column_stack((mious, costs))
    return float(moocore.hypervolume(points, ref=[0.0, 1.0, 1.0], maximise=[True, False, False]))


def added(miou: float, cost: Floats, mious: Floats, costs: Floats) -> float:
    """Hypervolume with the candidate less that without."""
    return hypervolume(np.append(mious, miou), np.vstack((costs, cost))) - hypervolume(mious, costs)


@pytest.mark.parametrize("seed", range(4))
def test_certain_candidates_add_what_the_hypervolume_says(seed: int) -> None:
    chance = np.random.default_rng(seed)
    mious, others = chance.uniform(0, 1, 6), chance.uniform(0, 1, (6, 2))
    means, costs = chance.uniform(0, 1, 20), np.round(chance.uniform(0, 1, (20, 2)), 1) * 0.9
    worth = expected_improvement(means, np.full(20, 1e-9), costs, mious, others)
    assert worth == pytest.approx([added(*pair, mious, others) for pair in zip(means, costs, strict=True)], abs=1e-7)
    assert worth.max() > 0


def test_uncertain_candidates_add_their_mean_over_many_draws() -> None:
    chance = np.random.default_rng(5)
    mious, others = np.array([0.4, 0.6, 0.7]), np.array([[0.2, 0.3], [0.5, 0.4], [0.6, 0.8]])
    cost, mean, spread = np.array([0.3, 0.35]), 0.45, 0.1
    (worth,) = expected_improvement(np.array([mean]), np.array([spread]), cost[None], mious, others)
    drawn = [added(max(0.0, miou), cost, mious, others) for miou in chance.normal(mean, spread, 4_000)]
    assert worth == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(len(drawn)))


def test_hope_counts_where_the_mean_is_dominated() -> None:
    mious, others = np.array([0.5]), np.array([[0.1, 0.1]])
    costs = np.full((2, 2), 0.5)
    sure, unsure = expected_improvement(np.array([0.4, 0.4]), np.array([0.001, 0.2]), costs, mious, others)
    assert sure == pytest.approx(0.0, abs=1e-12)
    assert unsure > 0.001


def test_the_first_of_all_adds_its_whole_box() -> None:
    worth = expected_improvement(
        np.array([0.6]), np.array([1e-9]), np.array([[0.2, 0.5]]), np.empty(0), np.empty((0, 2))
    )
    assert worth == pytest.approx([0.6 * 0.8 * 0.5])
