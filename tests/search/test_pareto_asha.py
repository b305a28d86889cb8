"""Halving for a front: three families, and which of them a rule keeps."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from search import columns
from search.pareto_asha import ParetoAsha, is_extreme
from search.stopping import Asha, StoppingRule

FAMILIES = {"big": (0.8, 80.0, 60.0), "middle": (0.65, 20.0, 20.0), "small": (0.5, 4.0, 2.0)}
"""Final mIoU, latency in ms and size in MB."""
EPOCHS = 27


def objectives(miou: float, latency_ms: float = 5.0, size_mb: float = 1.0) -> dict[str, float]:
    return {columns.MIOU: miou, columns.LATENCY_MS: latency_ms, columns.SIZE_MB: size_mb}


def completed(rule: StoppingRule, seed: int, trials: int = 90) -> dict[str, list[float]]:
    """The final mIoUs of the trials that came to their end, by family; trials of all families take turns."""
    chance = random.Random(seed)
    ended: dict[str, list[float]] = {name: [] for name in FAMILIES}
    for index in range(trials):
        name = list(FAMILIES)[index % 3]
        top, latency_ms, size_mb = FAMILIES[name]
        final = top - abs(chance.gauss(0, 0.06))
        for epoch in range(1, EPOCHS + 1):
            miou = final * (1 - math.exp(-epoch / 5)) + chance.gauss(0, 0.01)
            if rule.report(f"t{index:04d}", epoch, objectives(miou, latency_ms, size_mb)) is not None:
                break
        else:
            ended[name].append(final)
    return ended


@pytest.mark.parametrize("seed", range(5))
def test_every_family_of_the_front_keeps_its_best(seed: int) -> None:
    kept = completed(ParetoAsha(3, 1, EPOCHS), seed)
    assert all(kept.values()), "each family has trials at full budget"
    for name, (top, _, _) in FAMILIES.items():
        assert max(kept[name]) > top - 0.04
    assert sum(map(len, kept.values())) < 45, "and most trials are stopped all the same"


@pytest.mark.parametrize("seed", range(5))
def test_on_miou_alone_the_small_family_is_lost(seed: int) -> None:
    kept = completed(Asha(3, 1, EPOCHS), seed)
    assert kept["big"]
    assert kept["small"] == []


def test_like_is_judged_by_like() -> None:
    rule = ParetoAsha(eta=2, grace_epochs=1, epochs=9)
    for index in range(10):
        assert rule.report(f"big{index}", 1, objectives(0.6 + 0.01 * index, 100.0, 50.0)) is None, (
            "each the best so far"
        )
    for index in range(6):
        rule.report(f"small{index}", 1, objectives(0.2 - 0.01 * index, 2.0, 1.0))
    assert rule.report("good", 1, objectives(0.25, 2.1, 1.1)) is None, "far below the big ones, the best of the small"
    reason = rule.report("bad", 1, objectives(0.1, 2.1, 1.1))
    assert reason == "mIoU 0.100 at epoch 1 is number 4 of the 4 trials of 2 to 2.1 ms; the best 2 go on"


def test_ends_of_the_front_go_on() -> None:
    rung = {
        "best": objectives(0.9, 50.0, 30.0),
        "fastest": objectives(0.2, 1.0, 5.0),
        "smallest": objectives(0.1, 9.0, 0.5),
        "as fast but worse": objectives(0.1, 1.0, 5.0),
        "between": objectives(0.5, 20.0, 10.0),
    }
    points = np.array([list(values.values()) for values in rung.values()])
    assert [name for own, name in enumerate(rung) if is_extreme(points, own)] == ["best", "fastest", "smallest"]


def test_what_is_no_number_never_ranks_before_a_number() -> None:
    rule = ParetoAsha(eta=2, grace_epochs=1, epochs=9)
    assert rule.report("nan", 1, objectives(math.nan, 4.0)) == "mIoU is not a number at epoch 1"
    assert rule.report("first", 1, objectives(0.1, 5.0)) is None
    assert rule.report("second", 1, objectives(0.2, 5.0)) is None


def test_replayed_reports_restore_the_decisions() -> None:
    chance = random.Random(1)
    reports = [
        (f"t{index:02d}", 1, objectives(chance.random(), 10 ** chance.uniform(0, 2), 10 ** chance.uniform(0, 2)))
        for index in range(60)
    ]
    first, second = ParetoAsha(3, 1, 9), ParetoAsha(3, 1, 9)
    told = [first.report(*report) for report in reports]
    for report in reports[:30]:
        second.report(*report)
    assert [second.report(*report) for report in reports] == told
    assert any(told)
    assert not all(told)
