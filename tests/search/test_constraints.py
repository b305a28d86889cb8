"""Hard limits: what breaks one is never trained, the results have its figures, and the search says when it is all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from measured import add_rows, architectures_in, profile_of, row_of
from untrained_search import BASE, open_search

from search import columns, engine
from search.architectures import ArchitectureTable
from search.config import ConstraintsConfig
from search.engine import Search
from search.prepare import Plan, _require_feasible
from search.run_folder import RunFolder
from spaces import Space
from trainers.config import TrialConfig
from trainers.profiling import ArchitectureProfile
from trainers.settings import ConfigError

SIZES = Space.from_dict("sizes", {"parameters": {"model.base_channels": {"values": [4, 8, 16]}}})
WIDTHS = {"model.base_channels": {"distribution": "int_uniform", "min": 4, "max": 200}}
ENDLESS = Space.from_dict("endless", {"parameters": WIDTHS})
UNMEASURABLE = 200
TEN_MS = ConstraintsConfig(latency_ms=10)


def sized(channels: int) -> TrialConfig:
    return BASE.replace({"model.base_channels": channels})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths in the order measured; an architecture of so many base channels takes as many ms."""
    order: list[int] = []

    def run_task(_: ArchitectureTable, __: object, trial: TrialConfig, *, claim: bool) -> list[ArchitectureProfile]:
        assert not claim, "the actors of a running search hold what could be claimed"
        if trial.model.base_channels == UNMEASURABLE:
            raise ConfigError("it cannot be compiled")
        order.append(trial.model.base_channels)
        return [profile_of(trial, float(trial.model.base_channels))]

    monkeypatch.setattr(ArchitectureTable, "run_task", run_task)
    return order


def end_all(search: Search) -> list[str]:
    """Run every trial that the search starts; returns what was started."""
    started: list[str] = []
    while True:
        try:
            trial = search.next_trial()
        except StopIteration:
            return started
        assert trial is not None
        row: dict[str, Any] = {columns.EPOCH: 1, columns.MIOU: 0.5, columns.TRAIN_TIME_S: 1.0}
        search.report(trial.trial_id, row)
        search.end(trial.trial_id)
        started.append(trial.trial_id)


def test_what_is_too_slow_is_never_trained_and_listed_with_its_figures(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    add_rows(tmp_path, *(row_of(sized(channels), latency_ms) for channels, latency_ms in ((4, 5), (8, 20), (16, 30))))
    search, _ = open_search(run, SIZES, num_trials=3, constraints=TEN_MS)
    (started,) = end_all(search)
    rows = {row["model.base_channels"]: row for row in run.read_trials().to_pylist()}
    assert rows[4][columns.TRIAL_ID] == started
    for channels, latency_ms in ((8, 20.0), (16, 30.0)):
        refused = rows[channels]
        assert (refused[columns.STATE], refused[columns.EPOCH]) == (columns.INFEASIBLE, 0)
        assert refused[columns.REASON] == f"latency_ms {latency_ms:g} > 10"
        figures = [refused[name] for name in (columns.LATENCY_MS, columns.SIZE_MB, columns.PARAMS)]
        assert figures == [latency_ms, 2.5, 600]
    assert [path.name for path in run.trials.iterdir()] == [started]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{run.storage}")
    told = {trial.params["model.base_channels"]: dict(trial.constraints) for trial in study.trials}
    assert told[8] == {columns.LATENCY_MS: 1.0}
    assert told[16] == {columns.LATENCY_MS: 2.0}
    assert search.gave_up == (
        "The search ended after 1 of 3 trials: nothing else can be drawn from the space within the constraints."
    )


def test_where_nothing_listed_is_fast_enough_the_error_names_the_fastest(tmp_path: Path) -> None:
    add_rows(tmp_path, *(row_of(sized(channels), latency_ms) for channels, latency_ms in ((4, 12), (8, 11), (16, 30))))
    plan = cast(Plan, SimpleNamespace(space=SIZES))
    with pytest.raises(ConfigError) as raised:
        _require_feasible(architectures_in(tmp_path, constraints=TEN_MS), TEN_MS, plan)
    assert str(raised.value) == (
        "No architecture of space 'sizes' keeps constraints latency_ms=10. The closest is unet (base channels 8, size "
        "original) with latency_ms 11, size_mb 2.5, params 600."
    )
    faster = ConstraintsConfig(latency_ms=11)
    _require_feasible(architectures_in(tmp_path, constraints=faster), faster, plan)


def test_the_closest_is_the_one_that_is_least_beyond_its_limits(tmp_path: Path) -> None:
    add_rows(tmp_path, *(row_of(sized(channels), 40.0 - channels) for channels in (4, 16, 8)))
    table = architectures_in(tmp_path, constraints=ConstraintsConfig(latency_ms=10, params=599))
    assert table.closest() == "unet (base channels 16, size original) with latency_ms 24, size_mb 2.5, params 600"


def test_a_search_that_draws_nothing_feasible_says_so_and_names_the_closest(
    tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "DRAWS_PER_TRIAL", 5)
    run = RunFolder(tmp_path)
    add_rows(tmp_path, row_of(sized(999), 999.0))
    search, _ = open_search(run, ENDLESS, num_trials=3, constraints=ConstraintsConfig(latency_ms=1))
    assert end_all(search) == []
    assert search.taken == 0
    closest = f"unet (base channels {min(measured)}, size original) with latency_ms {min(measured)}, size_mb 2.5"
    assert search.gave_up == (
        f"The search ended after 0 of 3 trials: of its last 5 draws none could be trained. "
        f"The closest to the constraints is {closest}, params 600."
    )
    refused = run.read_trials().to_pylist()
    assert [row[columns.STATE] for row in refused] == [columns.INFEASIBLE] * 5
    assert all(row[columns.LATENCY_MS] == row["model.base_channels"] for row in refused)
    assert not search.close()


def test_an_architecture_is_measured_only_while_no_trial_runs(tmp_path: Path, measured: list[int]) -> None:
    run = RunFolder(tmp_path)
    search, _ = open_search(run, ENDLESS, num_trials=2)
    first = search.next_trial()
    assert first is not None
    before = list(measured)
    for _ in range(3):  # as often as Tune asks
        assert search.next_trial() is None
    assert measured == before
    search.report(first.trial_id, {columns.EPOCH: 1, columns.MIOU: 0.5, columns.TRAIN_TIME_S: 1.0})
    search.end(first.trial_id)
    second = search.next_trial()
    assert second is not None
    assert measured == [*before, second.config.model.base_channels]
    assert len(run.read_architectures()) == len(measured) + 1


def test_an_architecture_that_cannot_be_measured_fails_alone(tmp_path: Path, measured: list[int]) -> None:
    content = {"parameters": WIDTHS, "baselines": [{"model.base_channels": UNMEASURABLE}]}
    run = RunFolder(tmp_path)
    search, _ = open_search(run, Space.from_dict("endless", content), num_trials=2)
    assert end_all(search) == ["t0001"]
    failed, trained = run.read_trials().to_pylist()
    assert (failed[columns.STATE], failed[columns.REASON]) == (columns.FAILED, "it cannot be compiled")
    assert measured == [trained["model.base_channels"]]
