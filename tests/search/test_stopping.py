"""Early stopping, by hand-computed cases."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from search import columns
from search.config import SchedulerConfig
from search.schedulers import HALVING, build_stopping
from search.stopping import Asha, NoStopping, StoppingRule, SuccessiveHalving, bracket_shares


def report(rule: StoppingRule, trial: str, epoch: int, miou: float, latency_ms: float = 5.0) -> str | None:
    return rule.report(trial, epoch, {columns.MIOU: miou, columns.LATENCY_MS: latency_ms, columns.SIZE_MB: 1.0})


def stops(rule: StoppingRule, *reports: tuple[str, int, float]) -> list[bool]:
    return [report(rule, *item) is not None for item in reports]


@pytest.mark.parametrize(
    ("eta", "grace", "epochs", "rungs"),
    [(3, 1, 9, [1, 3]), (3, 1, 10, [1, 3, 9]), (2, 2, 17, [2, 4, 8, 16]), (4, 5, 6, [5]), (3, 1, 1, []), (3, 6, 6, [])],
)
def test_rungs_lie_below_the_full_budget(eta: int, grace: int, epochs: int, rungs: list[int]) -> None:
    rule = Asha(eta, grace, epochs)
    assert [list(bracket) for bracket in rule.brackets] == [rungs]
    assert stops(rule, *(("a", epoch, 0.1) for epoch in range(1, epochs + 1))) == [False] * epochs


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
    assert "e" not in rule.brackets[0][2] | rule.brackets[0][4]


def test_a_rung_that_was_skipped_is_never_filled_with_a_later_value() -> None:
    rule = Asha(eta=2, grace_epochs=1, epochs=8)
    report(rule, "resumed", 4, 0.9)
    assert [list(rung) for rung in rule.brackets[0].values()] == [[], [], ["resumed"]]
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
    assert len(rule.brackets[0][1]) == 3


@pytest.mark.parametrize(("eta", "grace", "epochs"), [(1, 1, 9), (3, 0, 9), (3, 1, 0), (3, 10, 9)])
def test_impossible_settings_are_refused(eta: int, grace: int, epochs: int) -> None:
    with pytest.raises(ValueError, match=f"got {eta}, {grace} and {epochs}"):
        Asha(eta, grace, epochs)


@pytest.mark.parametrize(("epochs", "brackets"), [(27, 0), (27, 4), (1, 2)])
def test_a_bracket_without_rungs_is_refused(epochs: int, brackets: int) -> None:
    with pytest.raises(ValueError, match=f"at most one a rung of .* got {brackets}"):
        Asha(3, 1, epochs, brackets)


def test_each_bracket_begins_a_rung_later() -> None:
    rule = Asha(eta=3, grace_epochs=2, epochs=60, brackets=3)
    assert [list(bracket) for bracket in rule.brackets] == [[2, 6, 18, 54], [6, 18, 54], [18, 54]]


def test_brackets_get_trials_as_in_hyperband() -> None:
    """With R=81 and eta=3 it begins its brackets with 81, 34, 15 and 8 trials (Li et al. 2018, table 1)."""
    shares = bracket_shares([1, 3, 9, 27], brackets=4)
    assert sum(shares) == pytest.approx(1)
    assert [math.ceil(81 * share / shares[0]) for share in shares] == [81, 34, 15, 8]
    assert bracket_shares([1, 3, 9, 27], brackets=2) == pytest.approx([81 / (81 + 33.75), 33.75 / (81 + 33.75)])
    assert bracket_shares([], brackets=1) == [1]


def test_brackets_have_their_shares_at_any_time() -> None:
    rule = Asha(eta=3, grace_epochs=1, epochs=27, brackets=3)
    brackets = [rule.bracket_of(f"t{number:04d}") for number in range(12_000)]
    assert set(brackets[:2]) == {0, 1}
    for start in (0, 500, 10_950):
        for length in (20, 100, 1000):
            counted = Counter(brackets[start : start + length])
            for bracket, share in enumerate(bracket_shares([1, 3, 9], 3)):
                assert abs(counted[bracket] - share * length) < 3


def test_the_bracket_of_a_trial_follows_from_its_id_alone() -> None:
    first, later = Asha(3, 1, 27, brackets=3), Asha(3, 1, 27, brackets=3)
    ids = [f"t{number:04d}" for number in range(50)]
    for trial in ids:
        report(first, trial, 1, 0.5)
    assert [first.bracket_of(trial) for trial in ids] == [later.bracket_of(trial) for trial in reversed(ids)][::-1]
    assert first.bracket_of("t0001-2") == first.bracket_of("t0001") != first.bracket_of("t0000")


def test_brackets_judge_apart_and_say_so() -> None:
    rule = Asha(eta=2, grace_epochs=1, epochs=8, brackets=2)
    early, late = ([f"t{i:04d}" for i in range(30) if rule.bracket_of(f"t{i:04d}") == bracket] for bracket in (0, 1))
    for trial in early[:4]:
        report(rule, trial, 2, 0.9)
    assert stops(rule, (late[0], 1, 0.0), (late[0], 2, 0.5), (late[1], 2, 0.6)) == [False, False, False]
    assert report(rule, late[2], 2, 0.1) == (
        "mIoU 0.100 at epoch 2 is below 0.600, the best 1/2 of 3 trials, in the bracket that begins at epoch 2"
    )
    assert str(report(rule, early[4], 2, 0.1)).endswith("of 5 trials, in the bracket that begins at epoch 1")


def simulate(rule: StoppingRule, seed: int) -> tuple[dict[str, int], list[tuple[str, int, float, float]]]:
    """30 trials of 9 epochs, four at a time, each with a curve of its own; the epochs reached, and the reports."""
    chance = random.Random(seed)
    waiting = [f"t{index:04d}" for index in range(30)]
    heights = {trial: chance.uniform(0.2, 0.8) for trial in waiting}
    latencies = {trial: chance.choice([2.0, 5.0, 20.0]) for trial in waiting}
    reached = dict.fromkeys(waiting, 0)
    running, reports = [waiting.pop(0) for _ in range(4)], []
    while running:
        trial = chance.choice(running)
        reached[trial] += 1
        miou = heights[trial] * (1 - math.exp(-reached[trial] / 3))
        reports.append((trial, reached[trial], miou, latencies[trial]))
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


@pytest.mark.parametrize("brackets", [1, 3])
@pytest.mark.parametrize("name", HALVING)
def test_the_recorded_epochs_restore_state_and_decisions(name: str, brackets: int) -> None:
    settings = SchedulerConfig(name=name, eta=2, grace_epochs=1, brackets=brackets)

    def fresh() -> SuccessiveHalving:
        rule = build_stopping(settings, 9)
        assert isinstance(rule, SuccessiveHalving)
        return rule

    whole = fresh()
    _, reports = simulate(whole, seed=2)
    told = [report(whole, *event) for event in reports]
    assert 5 < sum(reason is not None for reason in told) < 30
    for known in range(0, len(reports), 13):
        resumed = fresh()
        assert [report(resumed, *event) for event in reports[:known]] == told[:known]
        assert [report(resumed, *event) for event in reports] == told, "those before the restart a second time"
        assert resumed.brackets == whole.brackets


def test_the_settings_choose_the_rule() -> None:
    assert isinstance(build_stopping(SchedulerConfig(name="none"), 9), NoStopping)
    rule = build_stopping(SchedulerConfig(name="asha", eta=2, grace_epochs=3, brackets=2), 9)
    assert isinstance(rule, Asha)
    assert (rule.eta, [list(bracket) for bracket in rule.brackets]) == (2, [[3, 6], [6]])
