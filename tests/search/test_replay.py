"""Search policies on recorded learning curves: the simulated clock, what stands in for training, and the command."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_samples import COMPARED, EPOCHS, add_architectures, add_trial, begin_run, compared_run, full_run
from told import Told, tell

from search import columns
from search.config import SamplerConfig, SchedulerConfig
from search.recorded import Curve, Recording, distance, read_recording
from search.replay import ReplayConfig, main
from search.results import ResultsError
from search.run_folder import RunFolder
from search.simulation import Policy, simulate
from spaces import Space
from trainers.settings import ConfigError

SPACE = Space.from_dict(
    "toy",
    {
        "parameters": {
            "model.architecture": {"values": ["unet", "deeplab"]},
            "model.base_channels": {"values": [4, 8, 16], "when": {"model.architecture": "unet"}},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        }
    },
)
RATES = (1e-4, 1e-3, 1e-2)
FULL = 9


def recording() -> Recording:
    """Wider is better and slower; the middle learning rate is best; DeepLab is slow and poor."""
    curves: list[Curve] = []
    for base_channels in (4, 8, 16, None):
        for lr in RATES:
            top = (0.1 if base_channels is None else 0.2 + 0.02 * base_channels) - 0.05 * abs(math.log10(lr) + 3)
            model: dict[str, Any] = {"model.architecture": "deeplab"}
            if base_channels is not None:
                model = {"model.architecture": "unet", "model.base_channels": base_channels}
            cost = float(base_channels or 32)
            curves.append(
                Curve(
                    trial_id=f"t{len(curves):04d}",
                    assignment=model | {"optimizer.lr": lr},
                    costs={columns.LATENCY_MS: cost, columns.SIZE_MB: cost / 2},
                    mious=tuple(top * (1 - math.exp(-epoch / 3)) for epoch in range(1, FULL + 1)),
                    epoch_time_s=(2.0,) * FULL,
                )
            )
    return Recording(SPACE, tuple(curves), {columns.MIOU: 0.0, columns.LATENCY_MS: 40.0, columns.SIZE_MB: 20.0})


def policy(sampler: str = "random", scheduler: str = "none") -> Policy:
    return Policy(SamplerConfig(name=sampler), SchedulerConfig(name=scheduler, eta=3, grace_epochs=1))


@pytest.mark.parametrize("workers", [1, 4, 1000])
def test_without_stopping_every_epoch_of_the_budget_trains_a_trial_to_its_end(workers: int) -> None:
    found = simulate(recording(), policy(), workers=workers, epochs=workers * FULL * 3, seed=0)
    assert found.epochs == workers * FULL * 3
    assert found.clock_s == 3 * FULL * 2.0, "all workers train all the time"
    assert len(found.completed) == 3 * workers
    assert found.spent == sorted(found.spent)


def test_stopping_tries_more_with_the_same_epochs() -> None:
    budget = FULL * 30
    everything = simulate(recording(), policy(), workers=4, epochs=budget, seed=1)
    stopped = simulate(recording(), policy(scheduler="pareto_asha"), workers=4, epochs=budget, seed=1)
    assert stopped.trials > 1.5 * everything.trials
    assert 0 < len(stopped.completed) < len(everything.completed)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_replay_is_the_same_for_the_same_seed_only(sampler: str) -> None:
    runs = [
        simulate(recording(), policy(sampler, "asha"), workers=3, epochs=200, seed=seed).completed for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_hypervolume_counts_what_had_completed_by_then() -> None:
    found = simulate(recording(), policy(), workers=1, epochs=FULL * 40, seed=0)
    before, first, late = found.hypervolume(recording(), [FULL - 1, FULL, FULL * 40])
    assert before == 0
    top = found.completed[0]
    box = 40.0 * 20.0
    alone = max(top.mious) * (40.0 - top.costs[columns.LATENCY_MS]) * (20.0 - top.costs[columns.SIZE_MB]) / box
    assert first == pytest.approx(alone)
    assert late > first


def test_a_later_bracket_trains_its_trials_longer() -> None:
    rules = [SchedulerConfig(name="asha", eta=3, grace_epochs=1, brackets=brackets) for brackets in (1, 2)]
    found = [
        simulate(recording(), Policy(SamplerConfig(name="random"), rule), workers=4, epochs=FULL * 30, seed=1)
        for rule in rules
    ]
    assert found[1].trials < found[0].trials


def test_a_grid_ends_when_it_is_exhausted() -> None:
    finite = Space.from_dict("finite", {"parameters": {"model.base_channels": {"values": [4, 8]}}})
    curves = tuple(
        Curve(f"t{width}", {"model.base_channels": width}, {"latency_ms": 1.0, "size_mb": 1.0}, (0.1, 0.2), (1.0, 1.0))
        for width in (4, 8)
    )
    whole = Recording(finite, curves, {columns.MIOU: 0.0, columns.LATENCY_MS: 2.0, columns.SIZE_MB: 2.0})
    found = simulate(whole, policy("grid"), workers=3, epochs=1000, seed=0)
    assert (found.trials, found.epochs) == (2, 4)


def test_a_curve_without_a_number_fails_and_the_search_goes_on() -> None:
    broken = Curve("t0", {"model.base_channels": 4}, {"latency_ms": 1.0, "size_mb": 1.0}, (math.nan,) * 2, (1.0, 1.0))
    space = Space.from_dict("one", {"parameters": {"model.base_channels": {"values": [4]}}})
    corner = {columns.MIOU: 0.0, columns.LATENCY_MS: 2.0, columns.SIZE_MB: 2.0}
    found = simulate(Recording(space, (broken,), corner), policy(), workers=1, epochs=10, seed=0)
    assert found.trials >= 5
    assert found.completed == []


def test_the_nearest_curve_stands_in_for_a_draw() -> None:
    whole = recording()
    exact = {"model.architecture": "unet", "model.base_channels": 8, "optimizer.lr": 1e-3}
    assert whole.nearest(exact) == (next(curve for curve in whole.curves if curve.assignment == exact), 0.0)
    curve, away = whole.nearest(exact | {"optimizer.lr": 2e-3})
    assert curve.assignment == exact
    assert away == pytest.approx(math.log10(2) / 2)


def test_distance_is_one_for_a_parameter_that_only_one_has() -> None:
    unet, deeplab = recording().curves[0].assignment, recording().curves[-1].assignment
    assert distance(SPACE, unet, deeplab) == pytest.approx(1 + 1 + 1)
    assert distance(SPACE, unet, unet) == 0


def test_only_full_learning_curves_are_a_recording(tmp_path: Path) -> None:
    run = compared_run(tmp_path / "compared")
    found = read_recording(run, Space.from_dict("compared", COMPARED))
    assert {len(curve.mious) for curve in found.curves} == {3}
    assert len(found.curves) == 16, "neither repeats nor the stopped trial"
    assert found.curves[0].assignment["model.base_channels"] == 16
    sample = begin_run(tmp_path / "uneven")
    add_architectures(sample)
    for index, epochs in enumerate((EPOCHS, EPOCHS - 2)):
        add_trial(sample, index, columns.COMPLETED, 0, epochs=epochs)
    with pytest.raises(ResultsError, match=rf"of one length; run uneven has lengths {EPOCHS - 2}, {EPOCHS}"):
        read_recording(sample.run, SPACE)
    with pytest.raises(ResultsError, match="has no trial with a learning curve"):
        read_recording(begin_run(tmp_path / "empty").run, SPACE)


def test_policies_are_compared_once_each() -> None:
    names = [policy.name for policy in ReplayConfig(sampler="tpe", scheduler="none,asha", eta="2,3").policies()]
    assert names == ["tpe, none", "tpe, asha eta 2 grace 1", "tpe, asha eta 3 grace 1"]
    told = ReplayConfig(sampler="tpe", scheduler="none,asha", stopped="constraint,left_out").policies()
    assert [policy.name for policy in told] == [
        "tpe, none",
        "tpe, asha eta 3 grace 1",
        "tpe, asha eta 3 grace 1 told left_out",
    ]
    bracketed = ReplayConfig(sampler="tpe", scheduler="none,asha", brackets="1,2").policies()
    assert [policy.name for policy in bracketed] == [
        "tpe, none",
        "tpe, asha eta 3 grace 1",
        "tpe, asha eta 3 grace 1 brackets 2",
    ]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"scheduler": "pareto"},
            "scheduler must be one of front, asha, pareto_asha, none; got 'pareto'. Did you mean",
        ),
        ({"sampler": "tpe,bayes"}, "sampler must be one of .*; got 'bayes'"),
        ({"eta": "2,x"}, "eta must be whole numbers with commas between them; got '2,x'"),
        ({"brackets": "1,two"}, "brackets must be whole numbers with commas between them; got '1,two'"),
        ({"stopped": "as is"}, "sampler.stopped must be one of .*; got 'as is'. Did you mean 'as_is'"),
        ({"eta": "1"}, "scheduler.eta must be at least 2; got 1"),
    ],
)
def test_policies_that_cannot_be_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ReplayConfig(**settings).policies()


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    compared_run(tmp_path / "runs" / "compared")
    return lambda *arguments: tell(main, [f"runs={tmp_path / 'runs'}", *arguments], capfd)


def test_the_command_prints_a_line_a_policy(command: Callable[..., Told]) -> None:
    told = command("run=compared", "seeds=2", "sampler=random,tpe", "scheduler=none,pareto_asha", "workers=2")
    assert (told.code, told.err) == (0, "")
    assert "16 curves of 3 epochs of run compared; each policy with 2 workers and 48 epochs, 2 seeds" in told.out
    for name in ("random, none", "random, pareto_asha eta 3 grace 1", "tpe, none", "tpe, pareto_asha eta 3 grace 1"):
        line = next(line for line in told.out.splitlines() if line.startswith(name))
        assert line.count("±") == 4
    assert "away from the curve that stood in for them" in told.out


def test_the_command_says_what_is_wrong(command: Callable[..., Told], tmp_path: Path) -> None:
    full_run(tmp_path / "runs" / "unknown")
    told = command("run=unknown")
    assert told.code == 2
    assert told.err == "The settings of run unknown hold no space, so nothing can be drawn from it.\n"
    assert command("run=compared", "seeds=1").err == (
        "seeds must be at least 2, since one says nothing of chance; got 1.\n"
    )
    assert "Did you mean workers?" in command("worker=3").err
    assert command("run=compared", "brackets=1,2").err == (
        "scheduler.brackets must be at most 1 with grace_epochs=1, eta=3 and 3 epochs; got 2.\n"
    )


def test_reference_is_that_of_the_completed(tmp_path: Path) -> None:
    run = compared_run(tmp_path / "compared")
    found = read_recording(RunFolder(run.path), Space.from_dict("compared", COMPARED))
    slowest = max(curve.costs[columns.LATENCY_MS] for curve in found.curves)
    assert found.reference[columns.LATENCY_MS] == pytest.approx(1.1 * slowest)
    assert np.isfinite(list(found.reference.values())).all()
