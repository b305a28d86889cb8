"""Searches that know what earlier ones found out, and searches that are extended."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import untrained_search
from real_search import SETTINGS, rows, run
from test_sampler_earlier import VALUES, stored
from told import tell
from untrained_search import CLASSES, begin, open_search, play, report

from cluster.nodes import Node
from search import columns, prepare
from search.config import ConstraintsConfig, SearchConfig, load_config, space_of
from search.prepare import Plan
from search.reporting.record import Record, read_record
from search.resources import Share
from search.run import main
from search.run_folder import RunError, RunFolder
from search.sampler import SOURCE, Earlier, Sampler
from search.warm_start import Here, WarmStart, choose_trials
from spaces import Space
from trainers.config import DataConfig, TrainingConfig
from trainers.datasets import open_dataset

pytest_plugins = "search_fixtures"

NAME: dict[str, Any] = {"values": ["adam", "sgd"]}
MOMENTUM: dict[str, Any] = {"values": [0.0, 0.9], "when": {"optimizer.name": "sgd"}}
RATE: dict[str, Any] = {"values": [1e-2, 1e-3]}
POINTS: dict[str, Any] = {
    "parameters": {"optimizer.name": NAME, "optimizer.momentum": MOMENTUM, "optimizer.lr": RATE},
}
"""A space of six points."""
STOPPED, FAILED = 1, 3
"""Trials of the earlier run that do not complete."""
LATENCY = {
    columns.DEVICE_NAME: "a processor",
    columns.BATCH: 1,
    columns.PRECISION: "fp32",
    columns.MEMORY_FORMAT: "contiguous",
    columns.COMPILED: False,
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A finished search of all six points: four completed, one was stopped, one failed."""
    folder = RunFolder(tmp_path_factory.mktemp("work") / "runs" / "first")
    search, _ = begin(folder, POINTS, num_trials=6, training=TrainingConfig(epochs=2), data=DataConfig(max_images=4))
    for number in range(6):
        trial = search.next_trial()
        assert trial is not None
        if number == STOPPED:
            folder.stop_request(trial.trial_id).write_text("hopeless")
        while number != FAILED and not report(search, trial):
            pass
        search.end(trial.trial_id, "out of memory" if number == FAILED else None)
    search.close()
    return read_record(folder)


def known(record: Record) -> list[dict[str, Any]]:
    return [row for row in record.trials if row[columns.STATE] == columns.COMPLETED]


def a_search(content: Mapping[str, Any] = POINTS, changes: Mapping[str, Any] | None = None, **limits: float) -> Here:
    """A search like :func:`earlier`, but for its space, ``changes`` of its settings and its limits."""
    space = Space.from_dict("mine", content)
    settings = {"training.precision": "fp32", "training.epochs": 2, "data.max_images": 4, **(changes or {})}
    data = {"name": "made up", "num_train": 1, "num_val": 1, "height": 96, "width": 128, "references": []}
    data["classes"] = [{"name": name, "color": [0, 0, 0]} for name in CLASSES]
    base = SearchConfig().base_trial(space).replace(settings)
    return Here(space, base, ConstraintsConfig(**limits), data, LATENCY)  # type: ignore[arg-type]


def choose(record: Record, here: Here) -> WarmStart:
    return choose_trials([record], here, grid=False)


def test_trials_at_full_budget_are_told_as_they_were_and_the_others_left_out(earlier: Record) -> None:
    start = choose(earlier, a_search())
    assert start.notes == ("The sampler knows 4 of 6 trials of run first; left out: 1 stopped, 1 failed",)
    for told, row in zip(start.trials, known(earlier), strict=True):
        drawn = {path: row[path] for path in POINTS["parameters"] if row[path] is not None}
        objectives = {name: row[name] for name in columns.OBJECTIVES}
        assert told == Earlier(f"first/{row[columns.TRIAL_ID]}", drawn, objectives, {})


def test_repeats_are_told_by_their_mean(earlier: Record) -> None:
    first, *_ = known(earlier)
    again = {columns.TRIAL_ID: f"{first[columns.TRIAL_ID]}-1", columns.REPEAT: 1, columns.MIOU: first[columns.MIOU] + 1}
    record = dataclasses.replace(earlier, trials=[first, first | again])
    (told,) = choose(record, a_search()).trials
    assert told.objectives[columns.MIOU] == pytest.approx(first[columns.MIOU] + 0.5)


def test_a_completed_trial_without_an_miou_is_left_out(earlier: Record) -> None:
    trials = [known(earlier)[0], known(earlier)[1] | {columns.MIOU: float("nan")}]
    start = choose(dataclasses.replace(earlier, trials=trials), a_search())
    assert start.notes == ("The sampler knows 1 of 2 trials of run first; left out: 1 without an mIoU",)


def test_several_runs_are_told_one_after_the_other(earlier: Record) -> None:
    other = dataclasses.replace(earlier, run=RunFolder(earlier.run.path.with_name("second")))
    start = choose_trials([earlier, other], a_search(), grid=False)
    assert [told.source.split("/")[0] for told in start.trials] == ["first"] * 4 + ["second"] * 4
    assert [note.split(";")[0].split()[-1] for note in start.notes] == ["first", "second"]
    with pytest.raises(RunError, match="warm_start=first,second,first names first more than once"):
        choose_trials([earlier, other, earlier], a_search(), grid=False)


def with_rates(*values: float) -> dict[str, Any]:
    return {"parameters": POINTS["parameters"] | {"optimizer.lr": {"values": list(values)}}}


def test_what_the_space_cannot_draw_is_left_out(earlier: Record) -> None:
    start = choose(earlier, a_search(with_rates(1e-3, 0.5)))
    inside = [row for row in known(earlier) if row["optimizer.lr"] == 1e-3]
    assert [told.assignment["optimizer.lr"] for told in start.trials] == [1e-3] * len(inside)
    assert f"{4 - len(inside)} outside the space (optimizer.lr 0.01)" in start.notes[0]
    assert 0 < len(inside) < 4


@pytest.mark.parametrize(
    ("setting", "value"),
    [("model.backbone", "resnet50"), ("training.seed", 7), ("augmentation.flips", 0.1), ("data.cache", "elsewhere")],
)
def test_settings_without_effect_on_the_trials_may_differ(setting: str, value: Any, earlier: Record) -> None:
    assert len(choose(earlier, a_search(changes={setting: value})).trials) == 4


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("training.epochs", 60, "training.epochs 2 instead of 60"),
        ("model.size", "small", "model.size original instead of small"),
        ("loss.name", "focal", "loss.name cross_entropy instead of focal"),
        ("data.split_seed", 1, "data.split_seed 0 instead of 1"),
        ("training.precision", "bf16", "training.precision fp32 instead of bf16"),
    ],
)
def test_a_run_under_other_settings_has_nothing_to_tell(setting: str, value: Any, reason: str, earlier: Record) -> None:
    with pytest.raises(RunError, match=r"^warm_start=first has nothing to tell this search\. The sampler") as told:
        choose(earlier, a_search(changes={setting: value}))
    assert f"0 of 6 trials of run first; left out: 4 under other settings ({reason}), 1 stopped" in str(told.value)


def test_a_precision_that_was_found_by_measurement_fits_one_that_will_be(earlier: Record) -> None:
    assert len(choose(earlier, a_search(changes={"training.precision": "auto"})).trials) == 4


def test_a_setting_that_the_space_does_not_draw_counts_where_it_is_read(earlier: Record) -> None:
    without = {"parameters": {"optimizer.name": NAME, "optimizer.lr": RATE}}
    start = choose(earlier, a_search(without, {"optimizer.momentum": 0.5}))
    assert {told.assignment["optimizer.name"] for told in start.trials} == {"adam"}
    assert "under other settings (optimizer.momentum 0" in start.notes[0]


def test_what_this_search_would_refuse_to_build_is_left_out(earlier: Record) -> None:
    architectures = {"parameters": {"model.architecture": {"values": ["unet", "deeplab"]}}}
    trained = a_search(changes={"model.architecture": "deeplab", "training.batch_size": 2}).base
    trial = known(earlier)[0] | {columns.CONFIG: json.dumps(trained.to_dict())}
    with pytest.raises(RunError, match=r"1 impossible here \(training\.batch_size must be at least 2"):
        choose(dataclasses.replace(earlier, trials=[trial]), a_search(architectures, {"training.batch_size": 1}))


def test_pretrained_weights_make_another_trial(earlier: Record) -> None:
    deeplab = {"model.architecture": "deeplab"}
    pretrained = a_search(changes=deeplab | {"model.weights": "imagenet"}).base
    trial = known(earlier)[0] | {columns.CONFIG: json.dumps(pretrained.to_dict())}
    with pytest.raises(RunError, match=r"1 under other settings \(model\.weights imagenet instead of none\)"):
        choose(dataclasses.replace(earlier, trials=[trial]), a_search(changes=deeplab))


def test_what_breaks_a_limit_of_the_new_search_is_told_as_infeasible(earlier: Record) -> None:
    start = choose(earlier, a_search(latency_ms=4.0))
    assert [(told.objectives, told.excess) for told in start.trials] == [({}, {"latency_ms": 0.25})] * 4


def test_what_a_limit_kept_from_training_is_told_where_it_breaks_one_again(earlier: Record) -> None:
    refused = [row | {columns.STATE: columns.INFEASIBLE, columns.MIOU: None} for row in known(earlier)]
    record = dataclasses.replace(earlier, trials=refused)
    assert [told.excess for told in choose(record, a_search(latency_ms=2.5)).trials] == [{"latency_ms": 1.0}] * 4
    with pytest.raises(RunError, match="left out: 4 infeasible there but not here"):
        choose(record, a_search(latency_ms=6.0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "camvid"}, "the data set of first is made up, here camvid."),
        ({"classes": [{"name": "sea", "color": [0, 0, 9]}]}, "the classes of first is sky, road, here sea."),
        ({"num_train": 2}, "the number of training images of first is 1, here 2."),
        ({"num_val": 3}, "the number of validation images of first is 1, here 3."),
        ({"width": 64}, "the image width of first is 128, here 64."),
        ({"references": [{"label": "all sky", "miou": 0.3}]}, "'all sky' is unknown there, 0.300000 here."),
    ],
)
def test_a_run_on_other_data_is_refused(changed: dict[str, Any], message: str, earlier: Record) -> None:
    here = a_search()
    with pytest.raises(RunError, match="warm_start needs runs on the same ") as told:
        choose(earlier, dataclasses.replace(here, data={**here.data, **changed}))
    assert str(told.value).endswith(message)


def test_a_latency_that_was_measured_otherwise_is_refused(earlier: Record) -> None:
    here, (row,) = a_search(), earlier.architectures
    elsewhere = row | LATENCY | {columns.LATENCY_MS: 9.0, columns.DEVICE_NAME: "the CPU beside it"}
    record = dataclasses.replace(earlier, architectures=[row | LATENCY, elsewhere])
    assert choose(record, here).trials, "no trial has the latency that was measured elsewhere"
    for column, value, message in (
        (columns.DEVICE_NAME, "another", "the device of first is a processor, here another."),
        (columns.BATCH, 8, "the batch of first is 1, here 8."),
        (columns.COMPILED, True, "the compilation of first is False, here True."),
    ):
        with pytest.raises(RunError, match="warm_start needs latencies measured alike: ") as told:
            choose(record, dataclasses.replace(here, latency=LATENCY | {column: value}))
        assert str(told.value).endswith(message)


def test_a_grid_of_which_nothing_is_left_is_refused(earlier: Record) -> None:
    row = known(earlier)[0]
    point = {path: {"values": [row[path]]} for path in POINTS["parameters"] if row[path] is not None}
    assert choose(earlier, a_search({"parameters": point})).trials
    with pytest.raises(RunError, match="Nothing is left to try: warm_start=first has all of the grid"):
        choose_trials([earlier], a_search({"parameters": point}), grid=True)


def test_a_search_counts_its_own_trials_and_needs_the_earlier_run_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, space = RunFolder(tmp_path), Space.from_dict("mine", POINTS)
    known = Earlier("gone/t0000", {"optimizer.name": "adam", "optimizer.lr": 1e-3}, VALUES, {})
    WarmStart((known,), ("a note",)).save(folder.warm_start)
    for trials in (2, 3):
        loaded = WarmStart.load(folder.warm_start)
        assert loaded == WarmStart((known,), ("a note",))
        monkeypatch.setattr(untrained_search, "Sampler", functools.partial(Sampler, earlier=loaded.trials))
        search, _ = open_search(folder, space, trials)
        play(search)
        found = [row[columns.TRIAL_ID] for row in folder.read_trials().to_pylist()]
        assert found == ["t0000", "t0001", "t0002"][:trials]
    assert len(stored(tmp_path)) == 6, "the grid of six, one of them known"
    assert WarmStart.load(tmp_path / "absent") == WarmStart()


def plan_of(cache: Path, **data: Any) -> Plan:
    """A search like :func:`earlier`."""
    own_data, training = DataConfig(cache=str(cache), max_images=4, **data), TrainingConfig(epochs=2)
    config = SearchConfig(space=POINTS, space_name="mine", warm_start="first", data=own_data, training=training)
    space = space_of(config)
    base = config.base_trial(space)
    return Plan(config, space, base, open_dataset(base.data), Share(1, 0, 1), (Node(2, 0),))


def test_a_run_that_starts_has_what_the_earlier_ones_tell_it(
    earlier: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned_nothing = {"label": "untrained model", "miou": 0.01}
    monkeypatch.setattr(prepare, "latency_conditions", lambda _: LATENCY)
    monkeypatch.setattr(prepare, "references", lambda plan: [*prepare.constant_references(plan), learned_nothing])
    plan, run = plan_of(tmp_path / "cache"), RunFolder(tmp_path / "first")
    prepare.start_run(plan, run, WarmStart())
    assert not run.warm_start.exists()

    record = dataclasses.replace(earlier, data=run.read_data())
    start, run = prepare.plan_warm_start(plan, [record]), RunFolder(tmp_path / "second")
    assert [told.source for told in start.trials] == [f"first/{row[columns.TRIAL_ID]}" for row in known(earlier)]
    prepare.start_run(plan, run, start)
    assert WarmStart.load(run.warm_start) == start
    assert load_config(run.config).warm_start == "first"
    assert prepare.plan_warm_start(plan, []) == WarmStart()

    with pytest.raises(
        RunError, match=r"same validation images: .* 'background everywhere' is 0\.\d+ there, 0\.\d+ here"
    ):
        prepare.plan_warm_start(plan_of(tmp_path / "cache", split_seed=1), [record])


def test_several_runs_can_be_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = tell(main, ["warm_start=absent,other"], capfd)
    assert (told.code, told.out) == (2, "")
    assert "There is no run 'absent' in" in told.err
    assert SearchConfig(warm_start="a,b").earlier_runs == ["a", "b"]
    assert SearchConfig().earlier_runs == []


def test_a_finished_search_is_extended_by_just_the_trials_that_are_missing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "mine")
    training = TrainingConfig(epochs=2)
    assert len(play(begin(folder, num_trials=2, training=training)[0])) == 2 * 2
    before = folder.read_trials().to_pylist(), folder.read_epochs().to_pylist()
    assert len(play(begin(folder, num_trials=4, training=training)[0])) == 2 * 2
    record = read_record(folder)
    assert [row[columns.TRIAL_ID] for row in record.trials] == ["t0000", "t0001", "t0002", "t0003"]
    assert {row[columns.STATE] for row in record.trials} == {columns.COMPLETED}
    assert folder.read_trials().to_pylist()[:2] == before[0]
    assert folder.read_epochs().to_pylist()[:4] == before[1]
    assert [trial.state.name for trial in stored(folder.path)] == ["COMPLETE"] * 4
    assert play(begin(folder, num_trials=4, training=training)[0]) == []


def test_fewer_trials_than_there_are_is_refused(earlier: Record, capfd: pytest.CaptureFixture[str]) -> None:
    before = earlier.run.config.read_text()
    told = tell(main, ["resume=first", f"runs={earlier.run.path.parent}", "num_trials=3"], capfd)
    assert (told.code, told.out) == (2, "")
    rule = "num_trials must be at least 6, the trials that run 'first' has already (more extend it); got 3."
    assert told.err.strip() == rule
    assert earlier.run.config.read_text() == before


@pytest.mark.slow
def test_a_real_search_goes_on_from_a_real_one(workplace: Path) -> None:
    settings = [*SETTINGS, "training.epochs=2", "tracking.mode=off"]
    assert run(workplace, *settings, "run=first", "num_trials=3", "scheduler.name=none")[0] == 0
    code, printed = run(workplace, *settings, "run=second", "num_trials=1", "warm_start=first")
    assert (code, "The sampler knows 3 of 3 trials of run first\n" in printed) == (0, True)

    shutil.move(workplace / "runs" / "first", workplace / "elsewhere")
    code, printed = run(workplace, "resume=second", "num_trials=2")
    assert (code, "The sampler knows 3 of 3 trials of run first\n" in printed) == (0, True)
    second = RunFolder(workplace / "runs" / "second")
    assert sorted(row[columns.TRIAL_ID] for row in rows(second, "trials")) == ["t0000", "t0001"]
    trials = stored(second.path)
    assert [trial.user_attrs.get(SOURCE) for trial in trials] == [
        "first/t0000",
        "first/t0001",
        "first/t0002",
        None,
        None,
    ]
    assert trials[3].params != trials[0].params, "the baseline is known"
