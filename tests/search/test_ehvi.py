"""What the model proposes: known costs, one unknown mIoU."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from search.ehvi import Cost, Ehvi, Tried, architecture_part
from search.encoding import Encoding, identity
from spaces import Assignment, Space

SPACE = Space.from_dict(
    "made up",
    {
        "parameters": {
            "model.architecture": {"values": ["unet", "deeplab", "fcn"]},
            "model.aspp": {"values": [True, False], "when": {"model.architecture": "deeplab"}},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        }
    },
)
FINITE = Space.from_dict(
    "finite",
    {"parameters": {"model.architecture": {"values": ["unet", "fcn"]}, "training.batch_size": {"values": [4, 8, 16]}}},
)
COSTS = {"unet": Cost(2.0, 1.0), "deeplab": Cost(10.0, 9.0), "fcn": Cost(40.0, 90.0)}


def cost(assignment: Assignment) -> Cost | None:
    return COSTS[assignment["model.architecture"]]


def miou(assignment: Assignment) -> float:
    """Best at a learning rate of 10^-3; the slower, the better, but for fcn, which is worst and dearest."""
    top = {"unet": 0.5, "deeplab": 0.7, "fcn": 0.3}[assignment["model.architecture"]]
    return top - 0.15 * (math.log10(assignment["optimizer.lr"]) + 3) ** 2


def searched(model: Ehvi, trials: int, value: Callable[[Assignment], float] = miou) -> list[Tried]:
    tried: list[Tried] = []
    for _ in range(trials):
        proposed = model.propose(tried)
        assert proposed is not None
        tried.append(Tried(proposed, value(proposed)))
    return tried


@pytest.mark.parametrize("seed", range(2))
def test_draws_gather_where_the_front_grows(seed: int) -> None:
    drawn = [trial.assignment for trial in searched(Ehvi(SPACE, cost, 8, seed), 26)]
    assert max(Counter(map(architecture_part, drawn[:8])).values()) == 2, "four architectures take turns at first"
    chosen = Counter(item["model.architecture"] for item in drawn[8:])
    assert chosen["fcn"] <= 3, "slower, larger and worse than another one: hardly tried again"
    assert chosen["unet"] >= 2, "the fast one and the good one both are, the one with more to win more often"
    assert chosen["deeplab"] >= 3
    away = [abs(math.log10(item["optimizer.lr"]) + 3) for item in drawn]
    assert np.median(away[16:]) < 0.5 * np.median(away[:8]), "and near the best learning rate"


def test_the_same_trials_give_the_same_proposal() -> None:
    tried = searched(Ehvi(SPACE, cost, 4, 0), 10)
    assert Ehvi(SPACE, cost, 4, 0).propose(tried) == Ehvi(SPACE, cost, 4, 0).propose(tried)
    assert Ehvi(SPACE, cost, 4, 0).propose(tried) != Ehvi(SPACE, cost, 4, 1).propose(tried)


def test_each_configuration_of_a_finite_space_is_proposed_once() -> None:
    model = Ehvi(FINITE, cost, 3, 0)
    tried = searched(model, 6, lambda item: 0.1 * item["training.batch_size"] / 16)
    assert len({identity(trial.assignment) for trial in tried}) == 6
    assert model.propose(tried) is None


def test_what_breaks_a_limit_is_never_proposed() -> None:
    limited = COSTS | {"unet": Cost(2.0, 1.0, feasible=False)}
    model = Ehvi(FINITE, lambda item: limited[item["model.architecture"]], 2, 0)
    tried = searched(model, 3, lambda item: 0.01 * item["training.batch_size"])
    assert {trial.assignment["model.architecture"] for trial in tried} == {"fcn"}
    assert model.propose(tried) is None


def test_running_trials_count_as_what_is_expected_of_them() -> None:
    model = Ehvi(SPACE, cost, 4, 0)
    tried = searched(model, 12)

    def further(member: bool) -> list[float]:
        """Learning rates of five trials drawn at once."""
        drawn: list[Assignment] = []
        for _ in range(5):
            proposed = model.propose([*tried, *(Tried(item, member=member) for item in drawn)])
            assert proposed is not None
            drawn.append(proposed)
        return [math.log10(item["optimizer.lr"]) for item in drawn]

    assert np.ptp(further(member=True)) > 3 * np.ptp(further(member=False)), "they keep off each other"


def test_an_unmeasured_architecture_counts_as_the_most_similar_one() -> None:
    def known(assignment: Assignment) -> Cost | None:
        return None if assignment.get("model.aspp") is True else cost(assignment)

    tried = searched(Ehvi(SPACE, cost, 8, 0), 12)
    scaled = Ehvi(SPACE, known, 8, 0)._scaled([{"model.architecture": "deeplab", "model.aspp": True}], tried)
    assert scaled.tolist() == Ehvi(SPACE, cost, 8, 0)._scaled([{"model.architecture": "deeplab"}], tried).tolist()


def test_failures_keep_away_from_where_they_happened() -> None:
    def value(assignment: Assignment) -> float:
        return miou(assignment)

    tried = searched(Ehvi(SPACE, cost, 6, 0), 12, value)
    failing = [
        Tried(
            {"model.architecture": "deeplab", "model.aspp": aspp, "optimizer.lr": 10 ** (-3 + step / 10)},
            0.0,
            0.2,
            False,
        )
        for aspp in (True, False)
        for step in range(-4, 5)
    ]
    proposed = [Ehvi(SPACE, cost, 6, seed).propose([*tried, *failing]) for seed in range(4)]
    near = [
        item
        for item in proposed
        if item and item["model.architecture"] == "deeplab" and abs(math.log10(item["optimizer.lr"]) + 3) < 0.3
    ]
    assert near == []


def test_failures_of_unmeasured_architectures_alone_leave_it_to_chance() -> None:
    failed = [
        Tried({"model.architecture": "fcn", "optimizer.lr": 10.0**-rate}, 0.0, 0.2, False) for rate in (2, 3, 4, 5)
    ]
    assert Ehvi(SPACE, lambda _: None, 2, 0).propose([*failed, *failed]) is not None


def test_points_are_scaled_as_values_are_drawn() -> None:
    space = Space.from_dict(
        "scales",
        {
            "parameters": {
                "a": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-2},
                "b": {"distribution": "uniform", "min": 2.0, "max": 4.0},
                "c": {"values": [16, 4, 8]},
                "d": {"values": ["x", "y", "z"]},
                "e": {"values": [True, False]},
                "f": {"values": ["only"]},
                "g": {"distribution": "int_uniform", "min": 1, "max": 5, "when": {"d": "x"}},
            }
        },
    )
    one = {"a": 1e-3, "b": 2.5, "c": 8, "d": "x", "e": False, "f": "only", "g": 4}
    other = {"a": 1e-4, "b": 4.0, "c": 16, "d": "z", "e": True, "f": "only"}
    root = math.sqrt(0.5)
    assert Encoding(space)([one, other]) == pytest.approx(
        np.array([[0.5, 0.25, 0.5, root, 0, 0, 1, 0.75], [0, 1, 1, 0, 0, root, 0, 0.5]])
    )
