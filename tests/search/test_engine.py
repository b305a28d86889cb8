"""The search without Ray: repeats, and taking up what a kill left behind."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from untrained_search import BASE, RATES, open_search

from search import columns
from search.engine import Search
from search.ledger import TrialRecord
from search.run_folder import RunFolder
from spaces import Space

CONTRADICTION = {"model.architecture": "deeplab", "training.batch_size": 1}
CONTRADICTORY = Space.from_dict(
    "contradictory",
    {
        "parameters": {"model.architecture": {"values": ["deeplab"]}, "training.batch_size": {"values": [1]}},
        "baselines": [CONTRADICTION],
    },
)


class Judge:
    """Stopping rule that ends what it is told to, and notes whom it was asked about."""

    def __init__(self, stop: str = "") -> None:
        self.stop, self.asked = stop, list[str]()

    def report(self, trial_id: str, epoch: int, objectives: Mapping[str, float]) -> str | None:  # noqa: ARG002
        self.asked.append(trial_id)
        return "hopeless" if trial_id == self.stop else None


def train(search: Search, trial: TrialRecord | None, miou: float) -> TrialRecord:
    """Let a trial report every epoch of its budget, or fewer when it is stopped, and end."""
    assert trial is not None
    for epoch in range(1, BASE.training.epochs + 1):
        row: dict[str, Any] = {columns.EPOCH: epoch, columns.MIOU: miou, columns.TRAIN_TIME_S: 1.0 * epoch}
        search.report(trial.trial_id, row)
        if search.stop_reason(trial.trial_id, row) is not None:
            break
    search.end(trial.trial_id)
    return trial


def told(run: RunFolder) -> list[tuple[str, list[float] | None]]:
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{run.storage}")
    return [(trial.state.name, trial.values) for trial in study.trials]


def states(run: RunFolder) -> dict[str, str]:
    return {row[columns.TRIAL_ID]: row[columns.STATE] for row in run.read_trials().to_pylist()}


def test_contradictory_draw_left_by_a_kill_is_recorded_on_resume(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _, sampler = open_search(run, CONTRADICTORY)
    assert sampler.ask() is not None  # killed here, before the refusal was recorded

    resumed, _ = open_search(run, CONTRADICTORY)
    with pytest.raises(StopIteration):
        resumed.next_trial()
    (row,) = run.read_trials().to_pylist()
    assert (row[columns.TRIAL_ID], row[columns.STATE]) == ("t0000", columns.FAILED)
    assert "training.batch_size" in row[columns.REASON]
    assert told(run) == [("FAIL", None)]


def test_a_completed_run_is_repeated_under_the_next_seeds_and_the_sampler_told_their_mean(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    search, _ = open_search(run, RATES, repeats=3)
    first = train(search, search.next_trial(), 0.2)
    assert told(run)[0] == ("RUNNING", None)
    repeats = [train(search, search.next_trial(), miou) for miou in (0.5, 0.8)]
    assert [trial.trial_id for trial in (first, *repeats)] == ["t0000", "t0000-1", "t0000-2"]
    assert [trial.config.training.seed for trial in (first, *repeats)] == [40, 41, 42]
    reseeded = first.config.replace({"training.seed": 41})
    assert repeats[0].config == reseeded
    with pytest.raises(StopIteration):
        search.next_trial()
    assert told(run)[0] == ("COMPLETE", [pytest.approx(0.5), 5.0, 3.0])


def test_the_search_waits_for_a_run_that_may_be_repeated_or_start_again(tmp_path: Path) -> None:
    search, _ = open_search(RunFolder(tmp_path), RATES, repeats=2)
    first = search.next_trial()
    assert search.next_trial() is None
    train(search, first, 0.2)
    second = search.next_trial()
    assert second is not None
    assert search.next_trial() is None
    search.again(second.trial_id)
    assert search.next_trial() is second
    train(search, second, 0.2)
    with pytest.raises(StopIteration):
        search.next_trial()
    assert not search.close()


def test_a_stopped_run_is_not_repeated_and_a_repeat_never_judged(tmp_path: Path) -> None:
    run, judge = RunFolder(tmp_path), Judge(stop="t0000")
    search, _ = open_search(run, RATES, num_trials=2, repeats=2, stopping=judge)
    for miou in (0.1, 0.2, 0.3):
        train(search, search.next_trial(), miou)
    with pytest.raises(StopIteration):
        search.next_trial()
    assert states(run) == {"t0000": columns.STOPPED, "t0001": columns.COMPLETED, "t0001-1": columns.COMPLETED}
    assert set(judge.asked) == {"t0000", "t0001"}
    assert [values and values[0] for _, values in told(run)] == [0.1, pytest.approx(0.25), None]


def test_a_failed_repeat_leaves_the_mean_of_the_others(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    search, _ = open_search(run, RATES, repeats=3)
    train(search, search.next_trial(), 0.2)
    broken = search.next_trial()
    assert broken is not None
    search.end(broken.trial_id, "out of memory")
    train(search, search.next_trial(), 0.4)
    assert states(run)["t0000-1"] == columns.FAILED
    assert told(run)[0] == ("COMPLETE", [pytest.approx(0.3), 5.0, 3.0])


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_after_a_kill_only_the_missing_repeats_run(tmp_path: Path, killed_after: int) -> None:
    run, judge = RunFolder(tmp_path), Judge()
    search, _ = open_search(run, RATES, num_trials=1, repeats=3)
    for miou in (0.2, 0.5, 0.8)[:killed_after]:
        train(search, search.next_trial(), miou)

    resumed, _ = open_search(run, RATES, num_trials=1, repeats=3, stopping=judge)
    for miou in (0.2, 0.5, 0.8)[killed_after:]:
        train(resumed, resumed.next_trial(), miou)
    with pytest.raises(StopIteration):
        resumed.next_trial()
    rows = run.read_trials().to_pylist()
    assert [row[columns.TRIAL_ID] for row in rows] == ["t0000", "t0000-1", "t0000-2"]
    assert [row[columns.SEED] for row in rows] == [40, 41, 42]
    assert told(run)[0] == ("COMPLETE", [pytest.approx(0.5), 5.0, 3.0])
    assert set(judge.asked) == {"t0000"}  # replayed; repeats are none of its business


def test_a_kill_between_record_and_sampler_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    search, sampler = open_search(run, RATES, repeats=2)
    train(search, search.next_trial(), 0.2)
    last = search.next_trial()
    monkeypatch.setattr(sampler, "tell_completed", lambda *_: None)  # killed before it was told
    train(search, last, 0.4)
    assert told(run)[0] == ("RUNNING", None)

    open_search(run, RATES, repeats=2)
    assert told(run)[0] == ("COMPLETE", [pytest.approx(0.3), 5.0, 3.0])


def test_a_drawn_seed_is_where_repeats_begin(tmp_path: Path) -> None:
    space = Space.from_dict("seeds", {"parameters": {"training.seed": {"values": [7]}}})
    search, _ = open_search(RunFolder(tmp_path), space, repeats=2)
    seeds = [train(search, search.next_trial(), 0.1).config.training.seed for _ in range(2)]
    assert seeds == [7, 8]
    assert dataclasses.asdict(BASE)["training"]["seed"] == 40


def test_a_trial_is_stopped_after_the_epoch_in_which_somebody_asked_for_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    search, _ = open_search(run, RATES, repeats=2)
    trial = search.next_trial()
    assert trial is not None
    run.stop_request(trial.trial_id).write_text("it diverges")
    train(search, trial, 0.2)
    (row,) = run.read_trials().to_pylist()
    assert (row[columns.STATE], row[columns.REASON], row[columns.EPOCH]) == (columns.STOPPED, "it diverges", 1)


def test_what_a_trial_costs_is_in_its_folder_before_it_starts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    search, _ = open_search(run, RATES)
    trial = search.next_trial()
    assert trial is not None
    assert json.loads(run.profile(trial.trial_id).read_text()) == trial.profile
    assert trial.profile[columns.LATENCY_MS] == 5.0


def test_a_model_draws_the_same_after_a_kill_and_says_when_nothing_is_left(tmp_path: Path) -> None:
    sizes = {"optimizer.lr": {"values": [1e-4, 1e-3, 1e-2]}, "training.batch_size": {"values": [2, 4, 8]}}
    space = Space.from_dict("nine", {"parameters": sizes})

    def draws(name: str, kill_every: int) -> tuple[list[Any], str | None]:
        run, drawn = RunFolder(tmp_path / name), list[Any]()
        search, _ = open_search(run, space, 12, sampler_name="ehvi")
        while True:
            try:
                trial = search.next_trial()
            except StopIteration:
                return drawn, search.gave_up
            assert trial is not None
            train(search, trial, 0.5 - 0.1 * abs(2 + math.log10(trial.assignment["optimizer.lr"])))
            drawn.append(trial.assignment)
            if len(drawn) % kill_every == 0:
                search, _ = open_search(run, space, 12, sampler_name="ehvi")

    undisturbed, reason = draws("undisturbed", 100)
    assert reason == (
        "The search ended after 9 of 12 trials: nothing else can be drawn from the space within the constraints."
    )
    assert len({str(assignment) for assignment in undisturbed}) == 9
    assert draws("killed", 2) == (undisturbed, reason)
