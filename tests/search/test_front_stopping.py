"""Stopping for a front: three families, and what would be dominated at its end."""

from __future__ import annotations

import math
import random

import pytest
from test_pareto_asha import EPOCHS, FAMILIES, completed, objectives

from search.front_stopping import FrontStopping
from search.learning_curves import FEWEST, LearningCurves


def train(rule: FrontStopping, trial_id: str, mious: list[float], latency_ms: float = 5.0) -> tuple[int, str] | None:
    """Report the epochs until the rule stops the trial; the epoch and the reason, none when it came to its end."""
    for epoch, miou in enumerate(mious, start=1):
        reason = rule.report(trial_id, epoch, objectives(miou, latency_ms, latency_ms / 2))
        if reason is not None:
            return epoch, reason
    return None


@pytest.mark.parametrize("seed", range(5))
def test_every_family_of_the_front_keeps_its_best(seed: int) -> None:
    kept = completed(FrontStopping(1, EPOCHS), seed)
    for name, (top, _, _) in FAMILIES.items():
        assert max(kept[name]) > top - 0.05
    assert sum(map(len, kept.values())) < 60, "and a third of the trials are stopped all the same"


def test_a_slow_start_is_no_reason_where_the_kind_starts_slowly() -> None:
    rule = FrontStopping(1, 4)
    for index in range(4):
        train(rule, f"fast{index}", [0.4, 0.5, 0.5, 0.5], 5.0)
        train(rule, f"large{index}", [0.1, 0.2, 0.4, 0.6 + 0.01 * index], 50.0)
    assert train(rule, "slow", [0.1, 0.21, 0.42, 0.62], 50.0) is None, "behind the fast ones until the last epoch"
    stopped = train(rule, "flat", [0.1, 0.1, 0.1, 0.1], 50.0)
    assert stopped == (
        2,
        "mIoU 0.100 at epoch 2 would hardly end above 0.548, judged by the 5 completed trials of the nearest latency; "
        "a model as fast and as small has 0.630",
    )


def test_what_nothing_matches_in_cost_goes_on() -> None:
    rule = FrontStopping(1, 3)
    for index in range(5):
        train(rule, f"t{index}", [0.3, 0.4, 0.5], 5.0)
    assert train(rule, "faster", [0.01, 0.01, 0.01], 4.0) is None
    assert train(rule, "slower", [0.01, 0.01, 0.01], 6.0) is not None


def test_few_peers_say_nothing() -> None:
    rule = FrontStopping(1, 3)
    train(rule, "far", [0.3, 0.4, 0.5], 1.0)
    for index in range(FEWEST):
        assert train(rule, f"t{index}", [0.1, 0.1, 0.1], 5.0) is None, "dominated, yet its kind is unknown"
    assert train(rule, "next", [0.1, 0.1, 0.1], 5.0) is not None


def test_grace_and_numbers() -> None:
    rule = FrontStopping(2, 3)
    for index in range(FEWEST):
        train(rule, f"t{index}", [0.3, 0.4, 0.5])
    stopped = train(rule, "bad", [0.0, 0.0, 0.0])
    assert stopped is not None
    assert stopped[0] == 2
    assert train(rule, "nan", [0.5, math.nan, 0.5]) == (2, "mIoU is not a number at epoch 2")
    with pytest.raises(ValueError, match="grace_epochs >= 1 and epochs >= 1 expected, got 0, 3"):
        FrontStopping(0, 3)


def test_reports_again_change_nothing_and_restore_the_rule() -> None:
    chance = random.Random(0)
    rule, reports = FrontStopping(1, 6), []
    for index in range(60):
        top, latency_ms = chance.uniform(0.2, 0.8), 10 ** chance.uniform(0.0, 0.3)
        for epoch in range(1, 7):
            report = f"t{index:04d}", epoch, objectives(top * epoch / 6, latency_ms, latency_ms)
            reports.append((report, rule.report(*report)))
            assert rule.report(*report) == reports[-1][1]
            if reports[-1][1] is not None:
                break
    assert 10 < sum(reason is not None for _, reason in reports) < 50
    cut = len(reports) // 2
    again = FrontStopping(1, 6)
    for report, _ in reports[:cut]:
        again.report(*report)
    assert [again.report(*report) for report, _ in reports[cut:]] == [reason for _, reason in reports[cut:]]


def test_a_curve_takes_the_best_so_far_and_bridges_gaps() -> None:
    curves = LearningCurves(5)
    for epoch, miou in ((1, 0.2), (2, math.nan), (4, 0.5), (5, 0.4)):
        curves.report("t0000", epoch, objectives(miou))
    assert curves.trials["t0000"].best == [0.2, 0.2, 0.2, 0.5, 0.5]
    curves.report("t0000", 3, objectives(0.9))
    assert curves.completed == [curves.trials["t0000"]]
    assert curves.trials["t0000"].best[2] == 0.2


def test_the_expected_end_is_the_gain_of_the_nearest() -> None:
    curves = LearningCurves(2)
    curves.report("lonely", 1, objectives(0.3, 5.0))
    assert curves.expected(curves.trials["lonely"]) is None
    for name, gain, latency_ms in (("a", 0.1, 5.0), ("b", 0.2, 5.5), ("c", 0.3, 4.5), ("far", 0.9, 50.0)):
        curves.report(name, 1, objectives(0.0, latency_ms))
        curves.report(name, 2, objectives(gain, latency_ms))
    miou, spread = curves.expected(curves.trials["lonely"]) or (0.0, 0.0)
    assert (miou, spread) == pytest.approx((0.5, math.sqrt(0.02 / 3)))
    curves.report("elsewhere", 1, objectives(0.1, 500.0))
    miou, _ = curves.expected(curves.trials["elsewhere"]) or (0.0, 0.0)
    assert miou == pytest.approx(0.1 + 1.5 / 4), "all speak for it"
