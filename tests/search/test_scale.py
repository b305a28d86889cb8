"""A search of many trials: what one more costs, and what is kept of those before, does not grow with them."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from untrained_search import BASE, open_search, play, report

from search import columns, results
from search.console import ProgressView
from search.ehvi import CANDIDATES, Cost, Ehvi, Tried
from search.front_stopping import FrontStopping
from search.learning_curves import NEAR, PEERS, Curve, LearningCurves
from search.objectives import non_dominated
from search.run_folder import RunFolder
from search.sampler import MOST_WAITING
from search.tracking.follower import Follower
from spaces import Assignment, Space

LR = {"optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}}
ENDLESS = Space.from_dict("endless", {"parameters": LR})
MODELS = Space.from_dict(
    "models",
    {"parameters": {"model.architecture": {"values": ["unet", "fcn", "deeplab"]}, **LR}},
)


def test_files_stay_few_while_a_search_runs_and_a_follower_sees_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MOST_PARTS", 4)
    run = RunFolder(tmp_path)
    search, _ = open_search(run, ENDLESS, 40, stopping=FrontStopping(1, BASE.training.epochs))
    follower, read, news, most = Follower(run), 0, [], 0
    read_table, rest = pq.read_table, search.rest

    def counted(file: Path, **given: Any) -> Any:
        nonlocal read
        found = read_table(file, **given)
        read += found.num_rows
        return found

    def look() -> None:
        nonlocal most
        rest()
        most = max(most, len(list(run.results.glob("*/*.parquet"))))
        with monkeypatch.context() as patch:
            patch.setattr(pq, "read_table", counted)
            news.extend(follower.poll())

    monkeypatch.setattr(search, "rest", look)
    play(search, concurrent=3)
    look()
    rows = run.read_epochs().num_rows + run.read_trials().num_rows
    assert rows == 40 + sum(row[columns.EPOCH] for row in run.read_trials().to_pylist())
    assert most <= 3 * (4 + 1 + math.log2(40))
    assert sorted(item.trial_id for item in news if item.end is not None) == sorted(f"t{i:04d}" for i in range(40))
    told = [(item.trial_id, row[columns.EPOCH]) for item in news for row in item.epochs]
    assert len(told) == len(set(told)) == run.read_epochs().num_rows
    assert read < 2 * rows
    assert search.ledger.trials == {}


def test_a_follower_reads_no_merged_file_of_rows_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    search, _ = open_search(run, ENDLESS, 3)
    follower = Follower(run)
    for _ in range(3):
        trial = search.next_trial()
        assert trial is not None
        while not report(search, trial):
            pass
        search.end(trial.trial_id)
        follower.poll()
    for _ in range(2):
        search.ledger.compact()
        with monkeypatch.context() as patch:
            patch.setattr(pq, "read_table", lambda *_, **__: pytest.fail("nothing is new"))
            assert follower.poll() == []


def test_few_points_of_a_large_grid_wait_in_the_study(tmp_path: Path) -> None:
    grid = Space.from_dict("grid", {"parameters": {"training.batch_size": {"values": list(range(1, 61))}}})
    _, sampler = open_search(RunFolder(tmp_path), grid, 60)
    drawn = [sampler.ask() for _ in range(25)]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{RunFolder(tmp_path).storage}")
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 25 + ["WAITING"] * (MOST_WAITING - 1)
    _, sampler = open_search(RunFolder(tmp_path), grid, 60)
    drawn += [sampler.ask() for _ in range(36)]
    assert drawn.pop() is None
    assert sorted(draw.assignment["training.batch_size"] for draw in drawn if draw) == list(range(1, 61))


def test_curves_know_the_same_as_a_look_at_all_of_them() -> None:
    chance = random.Random(0)
    curves = LearningCurves(2)
    for number in range(300):
        costs = {columns.LATENCY_MS: chance.choice([1.0, 2.0, 3.0, 4.5, chance.uniform(1, 9)])}
        costs[columns.SIZE_MB] = float(chance.randint(1, 5))
        for epoch in range(1, chance.randint(1, 2) + 1):
            curves.report(f"t{number:04d}", epoch, costs | {columns.MIOU: round(chance.random(), 2)})
        asked = Curve(chance.choice([2.0, 4.5, chance.uniform(1, 9)]), float(chance.randint(1, 5)), [0.1])
        assert curves.peers(asked.latency_ms) == _peers(curves.completed, asked.latency_ms)
        cheaper = [
            other.best[-1]
            for other in curves.completed
            if other.latency_ms <= asked.latency_ms and other.size_mb <= asked.size_mb
        ]
        assert curves.needed(asked) == max(cheaper, default=-math.inf)


def _peers(completed: list[Curve], latency_ms: float) -> list[Curve]:
    away = [abs(np.log(curve.latency_ms) - math.log(latency_ms)) for curve in completed]
    order = sorted(range(len(completed)), key=lambda place: (away[place], -place))[:PEERS]
    return [completed[place] for place in order if away[place] <= NEAR]


def test_a_draw_of_the_model_asks_for_each_cost_once_and_fits_to_no_more_trials() -> None:
    asked: list[str] = []
    chance = random.Random(0)

    def cost(assignment: Assignment) -> Cost:
        asked.append(assignment["model.architecture"])
        return Cost(*{"unet": (9.0, 9.0), "fcn": (4.0, 5.0), "deeplab": (2.0, 2.0)}[asked[-1]])

    tried = [Tried(MODELS.draw(chance), chance.random()) for _ in range(1500)]
    model = Ehvi(MODELS, cost, 4, 0)
    encode, encoded = model._encoding, []
    model._encoding = lambda items: encoded.append(len(items)) or encode(items)  # type: ignore[assignment, func-returns-value]
    model.propose(tried)
    assert sorted(asked) == ["deeplab", "fcn", "unet"]
    assert encoded[:2] == [200, 0]
    assert encoded[2] <= CANDIDATES + 20 * 60


def test_the_terminal_counts_as_a_look_at_all_rows_would() -> None:
    chance = random.Random(0)
    view = ProgressView(Console(file=io.StringIO()), "many", 100, 1, [])
    rows: list[dict[str, Any]] = []
    for number in range(80):
        row: dict[str, Any] = {columns.TRIAL_ID: f"t{number:04d}", columns.CONFIGURATION: f"t{number:04d}"}
        row |= {columns.REPEAT: 0, columns.STATE: chance.choice(columns.STATES[:4]), columns.EPOCH: 2}
        row |= {columns.MIOU: chance.random(), columns.LATENCY_MS: chance.random(), columns.SIZE_MB: chance.random()}
        rows.append(row)
        view.trial_ended(row)
    done = [row for row in rows if row[columns.STATE] == columns.COMPLETED]
    best = max(done, key=lambda row: float(row[columns.MIOU]))
    members = non_dominated(np.array([[row[name] for name in columns.OBJECTIVES] for row in done])).sum()
    said = view._summary()
    assert f"best mIoU {best[columns.MIOU]:.3f} ({best[columns.TRIAL_ID]})" in said
    assert said.endswith(f"front of {members}")
    feasible = sum(row[columns.STATE] != columns.INFEASIBLE for row in rows)
    assert f"[{feasible}/100" in view._line(rows[0])
