"""Early stopping, by hand-computed cases."""

from __future__ import annotations

import math
import random

import pytest

from search import columns
from search.config import SchedulerConfig
from search.schedulers import build_stopping
from search.stopping import Asha, NoStopping, StoppingRule


def report(rule: StoppingRule, trial: str, epoch: int, miou: float) -> str | None:
    return rule.report(trial, epoch, {columns.MIOU: miou, columns.LATENCY_MS: 5.0, columns.SIZE_MB: 1.0})


def stops(rule: StoppingRule, *reports: tuple[str, int, float]) -> list[bool]:
    return [report(rule, *item) is not None for item in reports]


@pytest.mark.parametrize(
    ("eta", "grace", "epochs", "rungs"),
    [(3, 1, 9, [1, 3]), (3, 1, 10, [1, 3, 9]), (2, 2, 17, [2, 4, 8, 16]), (4, 5, 6, [5]), (3, 1, 1, []), (3, 9, 6, [])],
)
def test_rungs_lie_below_the_full_budget(eta: int, grace: int, epochs: int, rungs: list[int]) -> None:
    assert list(Asha(eta, grace, epochs).rungs) == rungs


def test_who_is_among_the_best_third_goes_on() -> None:
    rule = Asha(eta=3, grace_epochs=1, epochs=9)
    told = stops(
        rule,
        ("a", 1, 0.10),  # too few to judge
        ("b", 1, 0.30),  # too few to judge
        ("c", 1, 0.20),  # third of three, one goes on: 0.30 is needed
        ("d", 1, 0.40),  # the best of four
        ("e", 1, 0.35),  # second of five, one goes on: 0.40 is needed
        ("f", 1, 0.36),  # second of six, two go on
        ("g", 1, 0.36),  # equal to the second of seven
    )
    assert told == [False, False, True, False, True, False, False]


def test_the_reason_says_what_was_needed() -> None:
    rule = Asha(eta=2, grace_epochs=1, epochs=4)
    report(rule, "a", 1, 0.5)
    assert report(rule, "b", 1, 0.25) == "mIoU 0.250 at epoch 1 is below 0.500, the best 1/2 of 2 trials"


def test_epochs_between_the_rungs_and_the_last_one_decide_nothing() -> None:
    rule = Asha(eta=2, grace_epochs=2, epochs=8)
    for trial in "abcd":
        report(rule, trial, 2, 0.5)
    assert stops(rule, ("e", 1, 0.0), ("e", 3, 0.0), ("e", 5, 0.0), ("e", 8, 0.0)) == [False] * 4
    assert "e" not in rule.rungs[2] | rule.rungs[4]


def test_a_rung_that_was_skipped_is_never_filled_with_a_later_value() -> None:
    rule = Asha(eta=2, grace_epochs=1, epochs=8)
    report(rule, "resumed", 4, 0.9)
    assert [list(rung) for rung in rule.rungs.values()] == [[], [], ["resumed"]]
    assert stops(rule, ("new", 1, 0.1)) == [False]


@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_number_is_stopped_and_counts_as_the_worst(first: bool) -> None:
    rule = Asha(eta=2, grace_epochs=1, epochs=8)
    if not first:
        assert stops(rule, ("a", 1, 0.1), ("b", 1, 0.2)) == [False, False]
    assert report(rule, "nan", 1, math.nan) == "mIoU is not a number at epoch 1"
    assert stops(rule, ("zero", 1, 0.2)) == [False]


def test_an_epoch_reported_again_gets_the_same_answer_and_counts_once() -> None:
    rule = Asha(eta=2, grace_epochs=1, epochs=8)
    events = [("a", 1, 0.3), ("b", 1, 0.2), ("c", 1, 0.4)]
    told = [report(rule, *event) for event in events]
    assert [report(rule, *event) for event in events] == told
    assert len(rule.rungs[1]) == 3


@pytest.mark.parametrize(("eta", "grace", "epochs"), [(1, 1, 9), (3, 0, 9), (3, 1, 0)])
def test_impossible_settings_are_refused(eta: int, grace: int, epochs: int) -> None:
    with pytest.raises(ValueError, match=f"got {eta}, {grace}, {epochs}"):
        Asha(eta, grace, epochs)


def simulate(rule: StoppingRule, seed: int) -> tuple[dict[str, int], list[tuple[str, int, float]]]:
    """30 trials of 9 epochs, four at a time, each with a curve of its own; the epochs reached, and the reports."""
    chance = random.Random(seed)
    waiting = [f"t{index:02d}" for index in range(30)]
    heights = {trial: chance.uniform(0.2, 0.8) for trial in waiting}
    reached = dict.fromkeys(waiting, 0)
    running, reports = [waiting.pop(0) for _ in range(4)], []
    while running:
        trial = chance.choice(running)
        reached[trial] += 1
        miou = heights[trial] * (1 - math.exp(-reached[trial] / 3))
        reports.append((trial, reached[trial], miou))
        if report(rule, *reports[-1]) is not None or reached[trial] == 9:
            running.remove(trial)
            running += [waiting.pop(0)] if waiting else []
    best = max(heights, key=lambda trial: heights[trial])
    assert reached[best] == 9, "curves that never cross keep their best"
    return reached, reports


def test_a_search_spends_its_epochs_on_the_good_ones() -> None:
    reached, _ = simulate(Asha(3, 1, 9), seed=1)
    assert 30 + 9 * 3 < sum(reached.values()) < 0.6 * 30 * 9
    assert set(reached.values()) == {1, 3, 9}
    everything, _ = simulate(NoStopping(), seed=1)
    assert sum(everything.values()) == 30 * 9


def test_replayed_records_restore_the_decisions() -> None:
    whole = Asha(3, 1, 9)
    _, reports = simulate(whole, seed=2)
    half = len(reports) // 2
    resumed = Asha(3, 1, 9)
    for event in reports[:half]:
        report(resumed, *event)
    again = Asha(3, 1, 9)
    told = [report(again, *event) for event in reports]
    assert [report(resumed, *event) for event in reports[half:]] == told[half:]
    assert resumed.rungs == whole.rungs


def test_the_settings_choose_the_rule() -> None:
    assert isinstance(build_stopping(SchedulerConfig(name="none"), 9), NoStopping)
    rule = build_stopping(SchedulerConfig(name="asha", eta=2, grace_epochs=3), 9)
    assert isinstance(rule, Asha)
    assert (rule.eta, list(rule.rungs)) == (2, [3, 6])
