"""Which parameters mattered, from configurations in which it is known, and what is said where it cannot be told."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from search import columns, importance
from search.importance import FRONT, Importances, importances
from search.one_factor import one_factor
from spaces import Space

CONTENT: dict[str, Any] = {
    "parameters": {
        "model.architecture": {"values": ["unet", "deeplab"]},
        "model.backbone": {"values": ["a", "b", "c"], "when": {"model.architecture": "deeplab"}},
        "model.rates": {"values": [[6, 12], [1, 2]], "when": {"model.architecture": "deeplab"}},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "loss.smoothing": {"distribution": "uniform", "min": 0.0, "max": 0.2},
        "training.batch_size": {"values": [8, 16]},
        "training.epochs": {"values": [5]},
    }
}
SPACE = Space.from_dict("made up", CONTENT)
Measure = Callable[[dict[str, Any], random.Random], float]


def drawn(number: int, miou: Measure, **values: Any) -> list[dict[str, Any]]:
    """Random configurations; latency hangs on the backbone, size on nothing."""
    chance = random.Random(4)
    rows = []
    for index in range(number):
        deeplab = chance.random() < 0.5
        row: dict[str, Any] = {
            "model.architecture": "deeplab" if deeplab else "unet",
            "model.backbone": chance.choice("abc") if deeplab else None,
            "model.rates": chance.choice(["[6, 12]", "[1, 2]"]) if deeplab else None,
            "optimizer.lr": 10 ** chance.uniform(-4, -2),
            "loss.smoothing": chance.uniform(0, 0.2),
            "training.batch_size": chance.choice([8, 16]),
            "training.epochs": 5,
            columns.TRIAL_ID: f"t{index:04d}",
            columns.CONFIGURATION: f"t{index:04d}",
            columns.REPEAT: 0,
            columns.STATE: columns.COMPLETED,
            columns.REASON: None,
            columns.SEED: index,
            columns.SIZE_MB: 7.0,
        }
        row[columns.LATENCY_MS] = {"a": 20.0, "b": 9.0, "c": 30.0, None: 15.0}[row["model.backbone"]]
        row[columns.MIOU] = miou(row, chance)
        rows.append(row | values)
    return rows


def by_learning_rate(row: dict[str, Any], chance: random.Random) -> float:
    learning_rate: float = row["optimizer.lr"]
    return 0.6 - 0.2 * abs(math.log10(learning_rate) + 3) + chance.gauss(0, 0.01)


def by_backbone(row: dict[str, Any], chance: random.Random) -> float:
    return (0.6 if row["model.backbone"] == "a" else 0.4) + chance.gauss(0, 0.01)


def by_chance(_: dict[str, Any], chance: random.Random) -> float:
    return chance.random()


@pytest.fixture(scope="module")
def learning_rate() -> Importances:
    return importances(drawn(120, by_learning_rate), SPACE)


def test_what_decides_an_objective_ranks_first(learning_rate: Importances) -> None:
    first, second, *_ = learning_rate.rankings[columns.MIOU]
    assert first.path == "optimizer.lr"
    assert first.beyond_chance
    assert first.share > 0.7
    assert first.interval[0] > second.interval[1]
    assert learning_rate.rankings[columns.LATENCY_MS][0].path == "model.backbone"
    assert learning_rate.rankings[columns.SIZE_MB] == ()
    front = {found.path for found in learning_rate.rankings[FRONT] if found.beyond_chance}
    assert "optimizer.lr" in front


def test_shares_add_up_and_lie_in_their_intervals(learning_rate: Importances) -> None:
    assert "training.epochs" not in learning_rate.parameters
    for target in (columns.MIOU, columns.LATENCY_MS, FRONT):
        ranking = learning_rate.rankings[target]
        of_model = {path for path in learning_rate.parameters if path.startswith("model.")}
        wanted = of_model if target == columns.LATENCY_MS else set(learning_rate.parameters)
        assert {found.path for found in ranking} == wanted
        assert sum(found.share for found in ranking) == pytest.approx(1)
        assert all(0 <= found.interval[0] <= found.interval[1] <= 1 for found in ranking)


def test_a_conditional_parameter_can_rank_first() -> None:
    found = importances(drawn(150, by_backbone), SPACE).rankings[columns.MIOU]
    assert found[0].path == "model.backbone"
    assert found[0].beyond_chance
    clear = {entry.path for entry in found if entry.beyond_chance}
    assert clear <= {"model.backbone", "model.architecture"}


def test_high_miou_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one smoothing range reaches high mIoU, only one learning rate low mIoU: the first one matters."""

    def miou(row: dict[str, Any], chance: random.Random) -> float:
        best, worst = bool(row["loss.smoothing"] > 0.17), bool(row["optimizer.lr"] < 2e-4)
        return 0.5 + 0.3 * best - 0.3 * (worst and not best) + chance.gauss(0, 0.01)

    monkeypatch.setattr(importance, "RESAMPLES", 8)
    found = importances(drawn(120, miou), SPACE).rankings[columns.MIOU]
    assert found[0].path == "loss.smoothing"


def test_where_nothing_matters_little_is_beyond_chance() -> None:
    found = importances(drawn(80, by_chance), SPACE).rankings[columns.MIOU]
    assert sum(entry.beyond_chance for entry in found) <= 1
    assert found[0].interval[1] - found[0].interval[0] > 0.2


def test_what_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    few = importances(drawn(19, by_chance), SPACE)
    assert (few.possible, few.rankings, few.configurations) == (False, {}, 19)
    unmeasured = importances(drawn(30, by_chance, latency_ms=math.nan), SPACE)
    assert (unmeasured.possible, unmeasured.configurations) == (False, 0)
    stopped = importances(drawn(30, by_chance, state=columns.STOPPED), SPACE)
    assert (stopped.configurations, stopped.parameters) == (0, ())
    alone = Space.from_dict("alone", {"parameters": {"training.batch_size": {"values": [8, 16]}}})
    assert not importances(drawn(30, by_chance), alone).possible
    monkeypatch.setattr(importance, "RESAMPLES", 3)
    constant = importances(drawn(30, lambda *_: 0.5, latency_ms=9.0), SPACE)
    assert set(constant.rankings.values()) == {()}


def test_many_configurations_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "RESAMPLES", 3)
    monkeypatch.setattr(importance, "MOST_CONFIGURATIONS", 100)
    found = importances(drawn(400, by_learning_rate), SPACE)
    assert (found.configurations, found.used) == (400, 100)
    assert found.rankings[columns.MIOU][0].path == "optimizer.lr"


def test_one_factor_means_by_value() -> None:
    rows = drawn(40, by_backbone)
    levels = one_factor(rows, "model.backbone", ("c", "a", "b"))
    assert [level.label for level in levels] == ["c", "a", "b"]
    assert sum(level.effect.pairs for level in levels) == sum(row["model.backbone"] is not None for row in rows)
    own = [row[columns.MIOU] for row in rows if row["model.backbone"] == "a"]
    assert levels[1].effect.mean == pytest.approx(sum(own) / len(own))
    interval = levels[1].effect.interval
    assert interval is not None
    assert interval[0] < 0.6 < interval[1]
    assert [level.label for level in one_factor(rows, "training.batch_size")] == ["8", "16"]
    flags = [row | {"model.aspp": index % 2 == 0} for index, row in enumerate(rows)]
    assert [level.label for level in one_factor(flags, "model.aspp", (True, False))] == ["true", "false"]


@pytest.mark.parametrize(("number", "parts"), [(20, 3), (60, 4)])
def test_numbers_of_many_values_are_cut_into_ranges(number: int, parts: int) -> None:
    rows = drawn(number, by_learning_rate)
    levels = one_factor(rows, "optimizer.lr")
    assert len(levels) == parts
    assert {level.effect.pairs for level in levels} <= {number // parts, number // parts + 1}
    rates = sorted(row["optimizer.lr"] for row in rows)
    assert levels[0].label.startswith(f"{rates[0]:.3g} to ")
    assert levels[-1].label.endswith(f" to {rates[-1]:.3g}")
    crowded = [row | {"optimizer.lr": max(1e-3, row["optimizer.lr"])} for row in rows]
    assert one_factor(crowded, "optimizer.lr")[0].label == "0.001"
