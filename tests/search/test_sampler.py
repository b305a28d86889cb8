"""One contract for all samplers, on a real study in a real database."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search import columns
from search.config import SAMPLERS, SamplerConfig
from search.ehvi import Cost
from search.sampler import Draw, Sampler
from spaces import Assignment, Space, SpaceError

DEEPLAB = {"model.architecture": "deeplab"}
FINITE = Space.from_dict(
    "finite",
    {
        "parameters": {
            "model.architecture": {"values": ["unet", "deeplab"]},
            "model.aspp": {"values": [True, False], "when": DEEPLAB},
            "model.aspp_rates": {"values": [[6, 12], [3, 6]], "when": {"model.aspp": True}},
            "training.batch_size": {"values": [4, 8, 16]},
        },
        "baselines": [
            {**DEEPLAB, "model.aspp": True, "model.aspp_rates": [3, 6], "training.batch_size": 8},
            {"model.architecture": "unet", "training.batch_size": 16},
        ],
    },
)
ENDLESS = Space.from_dict(
    "endless",
    {
        "parameters": {
            "model.architecture": {"values": ["unet", "deeplab"]},
            "model.aspp": {"values": [True, False], "when": DEEPLAB},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        },
        "baselines": [{"model.architecture": "unet", "optimizer.lr": 1e-3}],
    },
)
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def open_sampler(folder: Path, name: str, space: Space = FINITE, seed: int = 0) -> Sampler:
    config = SamplerConfig(name=name, startup_trials=3)
    return Sampler(folder / "optuna.db", space, config, seed, epochs=4, costs=cost)


def cost(assignment: Assignment) -> Cost:
    """UNet is the cheaper one."""
    return Cost(5.0, 1.0) if assignment["model.architecture"] == "unet" else Cost(20.0, 8.0)


def stored(folder: Path) -> list[FrozenTrial]:
    return study(folder).get_trials()


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'optuna.db'}")


def objectives(assignment: Assignment) -> dict[str, float]:
    """A landscape with a trade-off: deeplab is better and slower."""
    better = assignment["model.architecture"] == "deeplab"
    size = assignment.get("training.batch_size", 1e4 * assignment.get("optimizer.lr", 1e-3))
    return {columns.MIOU: 0.3 + 0.2 * better, columns.LATENCY_MS: 5.0 + 10 * better, columns.SIZE_MB: float(size)}


def ask(sampler: Sampler) -> Draw:
    draw = sampler.ask()
    assert draw is not None
    return draw


def search(sampler: Sampler, trials: int) -> list[Draw]:
    """Ask and tell, with ends of every kind."""
    draws = []
    for index in range(trials):
        draw = ask(sampler)
        draws.append(draw)
        match index % 5:
            case 1:
                sampler.tell_stopped(draw.trial_id, objectives(draw.assignment), 0.5)
            case 3:
                sampler.tell_infeasible(draw.trial_id, {"latency_ms": 0.25})
            case 4:
                sampler.tell_failed(draw.trial_id)
            case _:
                sampler.tell_completed(draw.trial_id, objectives(draw.assignment))
    return draws


@every_sampler
def test_the_same_seed_gives_the_same_draws(name: str, tmp_path: Path) -> None:
    draws = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        draws.append(search(open_sampler(tmp_path / run, name, seed=3), 5))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_another_seed_gives_other_draws(name: str, tmp_path: Path) -> None:
    draws = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        draws.append(search(open_sampler(tmp_path / str(seed), name, ENDLESS, seed), 5))
    assert draws[0] != draws[1]


@every_sampler
def test_draws_without_an_end_come_back_unchanged(name: str, tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, name)
    search(sampler, 2)
    left = [ask(sampler), ask(sampler)]
    del sampler
    again = open_sampler(tmp_path, name)
    assert again.unfinished() == left
    for draw in left:
        again.tell_completed(draw.trial_id, objectives(draw.assignment))
    assert again.unfinished() == []
    assert ask(again).trial_id == "t0004"


def test_baselines_are_enqueued_once_and_all_of_them(tmp_path: Path) -> None:
    first = open_sampler(tmp_path, "tpe")
    one = ask(first)
    again = open_sampler(tmp_path, "tpe")
    assert again.unfinished() == [one]
    assert ask(again).assignment == FINITE.baselines[1]
    assert len(stored(tmp_path)) == 2


@pytest.mark.parametrize("name", ["grid", "random"])
def test_a_kill_while_the_first_points_were_enqueued_loses_none(name: str, tmp_path: Path) -> None:
    first = open_sampler(tmp_path, name)
    enqueued = len(stored(tmp_path))
    del first
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("DELETE FROM trials WHERE number >= 1")
    open_sampler(tmp_path, name)
    assert len(stored(tmp_path)) == enqueued
    assert [ask(open_sampler(tmp_path, name)).assignment for _ in range(2)] == list(FINITE.baselines)


@every_sampler
def test_baselines_come_first_and_every_end_is_told(name: str, tmp_path: Path) -> None:
    draws = search(open_sampler(tmp_path, name), 5)
    assert [draw.assignment for draw in draws[:2]] == list(FINITE.baselines)
    assert [draw.trial_id for draw in draws] == [f"t{index:04d}" for index in range(5)]
    for draw in draws:
        FINITE.check_assignment(draw.assignment)
    completed, stopped, _, infeasible, failed = stored(tmp_path)[:5]
    assert completed.state == stopped.state == TrialState.COMPLETE
    assert completed.values == list(objectives(draws[0].assignment).values())
    assert stopped.values == list(objectives(draws[1].assignment).values())
    assert [list(trial.constraints.values()) for trial in (completed, stopped)] == [[0.0], [0.5]]
    assert (infeasible.state, infeasible.constraints) == (TrialState.PRUNED, {"latency_ms": 0.25})
    assert failed.state == TrialState.FAIL


@pytest.mark.parametrize(
    ("stopped", "state", "constraints"),
    [
        ("constraint", TrialState.COMPLETE, [0.9]),
        ("as_is", TrialState.COMPLETE, [0.0]),
        ("left_out", TrialState.FAIL, []),
    ],
)
def test_what_is_told_of_a_stopped_trial_can_be_chosen(
    stopped: str, state: TrialState, constraints: list[float], tmp_path: Path
) -> None:
    config = SamplerConfig(name="random", stopped=stopped)
    sampler = Sampler(tmp_path / "optuna.db", FINITE, config, 0, epochs=4, costs=cost)
    draw = ask(sampler)
    sampler.tell_stopped(draw.trial_id, objectives(draw.assignment), 0.9, "worse than its peers")
    trial = stored(tmp_path)[0]
    assert trial.state == state
    assert list(trial.constraints.values()) == constraints
    assert trial.user_attrs["state"] == columns.STOPPED


def test_a_stopped_or_infeasible_trial_is_no_member_of_the_front(tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, "tpe", ENDLESS)
    draws = [ask(sampler) for _ in range(3)]
    sampler.tell_completed("t0000", {columns.MIOU: 0.5, columns.LATENCY_MS: 9.0, columns.SIZE_MB: 9.0})
    sampler.tell_stopped("t0001", {columns.MIOU: 0.9, columns.LATENCY_MS: 1.0, columns.SIZE_MB: 1.0}, 0.9)
    sampler.tell_infeasible("t0002", {"size_mb": 2.0})
    assert [trial.number for trial in study(tmp_path).best_trials] == [0]
    assert len(draws) == 3


@pytest.mark.filterwarnings("ignore:The constraint value is ignored")
def test_an_end_told_in_half_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_sampler(tmp_path, "tpe")
    draws = [ask(first), ask(first)]

    def tell(sampler: Sampler) -> None:
        with suppress(InterruptedError):
            sampler.tell_stopped("t0000", objectives(draws[0].assignment), 0.3, "worse than its peers")
        with suppress(InterruptedError):
            sampler.tell_infeasible("t0001", {"size_mb": 2.0}, "size_mb 3 > 1")

    def killed(*_: Any, **__: Any) -> None:
        raise InterruptedError

    half = open_sampler(tmp_path, "tpe")
    assert half.unfinished() == draws
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        tell(half)
    again = open_sampler(tmp_path, "tpe")
    assert again.unfinished() == draws
    tell(again)
    stopped, infeasible = stored(tmp_path)
    assert (stopped.state, list(stopped.constraints.values())) == (TrialState.COMPLETE, [0.3])
    assert (infeasible.state, infeasible.constraints) == (TrialState.PRUNED, {"size_mb": 2.0})


def test_a_trial_says_how_it_ended_and_why(tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, "random")
    draws = [ask(sampler) for _ in range(4)]
    values = objectives(draws[0].assignment)
    sampler.tell_completed("t0000", values)
    sampler.tell_stopped("t0001", values, 0.5, "worse than its peers")
    sampler.tell_infeasible("t0002", {"size_mb": 2.0}, "size_mb 3 > 1")
    sampler.tell_failed("t0003", "out of memory")
    assert [trial.user_attrs for trial in stored(tmp_path)] == [
        {"state": "completed"},
        {"state": "stopped", "reason": "worse than its peers"},
        {"state": "infeasible", "reason": "size_mb 3 > 1"},
        {"state": "failed", "reason": "out of memory"},
    ]


def test_optuna_dashboard_finds_constraints_where_it_looks(tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, "random")
    draws = [ask(sampler) for _ in range(2)]
    sampler.tell_completed("t0000", objectives(draws[0].assignment))
    sampler.tell_stopped("t0001", objectives(draws[1].assignment), 0.5)
    assert [trial.system_attrs["constraints"] for trial in stored(tmp_path)] == [[0.0], [0.5]]


def test_the_objectives_have_names_and_directions(tmp_path: Path) -> None:
    open_sampler(tmp_path, "tpe")
    assert study(tmp_path).metric_names == list(columns.OBJECTIVES)
    told = [direction.name.lower()[:3] for direction in study(tmp_path).directions]
    assert told == list(columns.OBJECTIVES.values())
    assert study(tmp_path).user_attrs == {"space": "finite", "question": FINITE.question}


def test_a_grid_is_all_of_the_space_once(tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, "grid")
    drawn: list[Any] = []
    while (draw := sampler.ask()) is not None:
        drawn.append(draw.assignment)
        sampler.tell_failed(draw.trial_id)
    assert drawn[:2] == list(FINITE.baselines)
    assert sorted(map(repr, drawn)) == sorted(map(repr, FINITE.enumerate() or []))
    assert len(drawn) == FINITE.size() == 12
    assert sampler.ask() is None
    assert open_sampler(tmp_path, "grid").ask() is None


def test_a_grid_of_an_endless_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"sampler\.name=grid needs a finite space of at most 10000.*'endless'"):
        open_sampler(tmp_path, "grid", ENDLESS)


def test_tpe_learns_where_the_good_ones_are(tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, "tpe", ENDLESS)
    rates = []
    for _ in range(30):
        draw = ask(sampler)
        lr = draw.assignment["optimizer.lr"]
        rates.append(lr)
        miou = 0.8 if lr > 3e-3 else 0.1
        sampler.tell_completed(draw.trial_id, {columns.MIOU: miou, columns.LATENCY_MS: 5.0, columns.SIZE_MB: 1.0})
    assert sum(rate > 3e-3 for rate in rates[15:]) > 9


def test_what_was_stopped_early_repels_tpe(tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, "tpe", ENDLESS)
    rates = []
    for _ in range(30):
        draw = ask(sampler)
        lr = draw.assignment["optimizer.lr"]
        rates.append(lr)
        values = {columns.MIOU: 0.5, columns.LATENCY_MS: 5.0, columns.SIZE_MB: 1.0}
        if lr > 1e-3:
            sampler.tell_stopped(draw.trial_id, values, 0.8)
        else:
            sampler.tell_completed(draw.trial_id, values)
    assert sum(rate <= 1e-3 for rate in rates[15:]) > 9
