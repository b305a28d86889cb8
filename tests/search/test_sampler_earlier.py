"""A sampler that is given what earlier searches found out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from search import columns
from search.config import SAMPLERS, SamplerConfig
from search.ehvi import Cost
from search.sampler import SOURCE, Draw, Earlier, Sampler
from spaces import Assignment, Space

DEEPLAB = {"model.architecture": "deeplab"}
MIXED = Space.from_dict(
    "mixed",
    {
        "parameters": {
            "model.architecture": {"values": ["unet", "deeplab"]},
            "model.aspp_rates": {"values": [[6, 12], [3, 6]], "when": DEEPLAB},
            "training.batch_size": {"values": [4, 8, 16]},
        },
        "baselines": [
            {**DEEPLAB, "model.aspp_rates": [3, 6], "training.batch_size": 8},
            {"model.architecture": "unet", "training.batch_size": 16},
        ],
    },
)
VALUES = {columns.MIOU: 0.5, columns.LATENCY_MS: 5.0, columns.SIZE_MB: 3.0}
KNOWN = (
    Earlier("a/t0000", {**DEEPLAB, "model.aspp_rates": [3, 6], "training.batch_size": 8}, VALUES, {}),
    Earlier("a/t0003", {"model.architecture": "unet", "training.batch_size": 4}, {}, {"size_mb": 0.5}),
    Earlier("b/t0000", {"model.architecture": "unet", "training.batch_size": 8}, VALUES, {}),
)
"""The first baseline, and two other points of the nine; one of them breaks a limit."""


def open_sampler(folder: Path, name: str) -> Sampler:
    return sampler_of(MIXED, name, KNOWN, folder / "optuna.db")


def sampler_of(space: Space, name: str, known: Sequence[Earlier] = (), storage: Path | None = None) -> Sampler:
    return Sampler(storage, space, SamplerConfig(name=name), 0, epochs=2, costs=lambda _: Cost(5.0, 3.0), earlier=known)


def stored(folder: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'optuna.db'}").get_trials()


def ask(sampler: Sampler) -> Draw:
    draw = sampler.ask()
    assert draw is not None
    return draw


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
def test_what_is_known_stands_before_the_first_trial(name: str, tmp_path: Path) -> None:
    sampler = open_sampler(tmp_path, name)
    first = ask(sampler)
    assert first == Draw("t0000", MIXED.baselines[1]), "the other baseline is known"
    sampler.tell_completed("t0000", VALUES)
    left = ask(sampler)
    trials = stored(tmp_path)
    assert [trial.state.name for trial in trials[:5]] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE", "RUNNING"]
    assert [trial.user_attrs.get(SOURCE) for trial in trials[:4]] == ["a/t0000", "a/t0003", "b/t0000", None]
    assert trials[0].values == trials[3].values == list(VALUES.values())
    assert [trial.constraints for trial in trials[:2]] == [trials[3].constraints, {"size_mb": 0.5}]
    assert trials[0].params == {**DEEPLAB, "model.aspp_rates": "[3, 6]", "training.batch_size": 8}

    again = open_sampler(tmp_path, name)
    assert again.unfinished() == [left] == [dataclasses.replace(left, trial_id="t0001")]
    again.tell_failed("t0001")
    assert ask(again).trial_id == "t0002"
    assert len(stored(tmp_path)) >= 6
    assert sum(SOURCE in trial.user_attrs for trial in stored(tmp_path)) == 3


def test_a_grid_is_what_is_not_known_of_it(tmp_path: Path) -> None:
    sampler, drawn = open_sampler(tmp_path, "grid"), list[Assignment]()
    while (draw := sampler.ask()) is not None:
        drawn.append(draw.assignment)
        sampler.tell_completed(draw.trial_id, VALUES)
    points = MIXED.enumerate() or []
    assert drawn[0] == MIXED.baselines[1]
    assert sorted(map(repr, [*drawn, *(trial.assignment for trial in KNOWN)])) == sorted(map(repr, points))
    assert len(drawn) == 6


@pytest.mark.parametrize("added", [2, 5])
def test_a_kill_while_the_known_were_added_leaves_each_of_them_once(
    added: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, done = optuna.Study.add_trial, list[FrozenTrial]()

    def killed(study: optuna.Study, trial: FrozenTrial) -> None:
        if len(done) == added:
            raise InterruptedError
        done.append(trial)
        add(study, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", killed)
        with pytest.raises(InterruptedError):
            open_sampler(tmp_path, "grid")
    assert len(stored(tmp_path)) == added
    assert ask(open_sampler(tmp_path, "grid")) == Draw("t0000", MIXED.baselines[1])
    trials = stored(tmp_path)
    assert [trial.user_attrs.get(SOURCE) for trial in trials[:4]] == ["a/t0000", "a/t0003", "b/t0000", None]
    assert len(trials) == 9, "the whole grid, known or to be drawn"


LINE: dict[str, Any] = {"distribution": "uniform", "min": 0.0, "max": 1.0}


def test_the_seed_of_the_earlier_run_draws_something_else_here() -> None:
    space = Space.from_dict("line", {"parameters": {"optimizer.lr": LINE}})
    first = sampler_of(space, "random")
    drawn = [ask(first).assignment for _ in range(4)]
    told = [Earlier(f"a/t{number}", point, VALUES, {}) for number, point in enumerate(drawn)]
    second = sampler_of(space, "random", told)
    assert not [draw for draw in (ask(second) for _ in range(4)) if draw.assignment in drawn]


def test_tpe_knows_from_its_first_draw_where_the_good_ones_are() -> None:
    space = Space.from_dict("line", {"parameters": {"optimizer.lr": LINE}})
    told = [
        Earlier(f"a/t{number}", {"optimizer.lr": number / 20}, VALUES | {columns.MIOU: 0.9 if number > 15 else 0.1}, {})
        for number in range(20)
    ]
    sampler = sampler_of(space, "tpe", told)
    assert sum(ask(sampler).assignment["optimizer.lr"] > 0.7 for _ in range(8)) >= 6


def test_the_model_knows_what_an_earlier_search_measured(tmp_path: Path) -> None:
    choices = {"model.base_channels": {"values": [4, 8]}, "optimizer.lr": LINE}
    space = Space.from_dict("pair", {"parameters": choices})
    told = [
        Earlier(f"a/t{number}", {"model.base_channels": 4, "optimizer.lr": number / 20}, VALUES, {})
        for number in range(20)
    ]
    config = SamplerConfig(name="ehvi")
    sampler = Sampler(tmp_path / "optuna.db", space, config, 0, epochs=2, costs=lambda _: None, earlier=told)
    draws = [ask(sampler) for _ in range(3)]
    assert [draw.trial_id for draw in draws] == ["t0000", "t0001", "t0002"]


def test_nsga2_breeds_from_what_is_known() -> None:
    tens = {"values": list(range(1, 11))}
    names = ("model.base_channels", "training.batch_size", "training.seed", "training.epochs")
    space = Space.from_dict("tens", {"parameters": dict.fromkeys(names, tens)})
    told = [Earlier(f"a/t{number}", dict.fromkeys(names, 10), VALUES, {}) for number in range(60)]
    sampler = sampler_of(space, "nsga2", told)
    drawn = [value for _ in range(8) for value in ask(sampler).assignment.values()]
    assert sum(value == 10 for value in drawn) > 16, "at random it would be three of 32"
