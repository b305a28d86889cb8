"""Hypervolume and best mIoU against training time: the numbers, the words and the chart."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from open_page import opened
from playwright.sync_api import Browser, expect
from run_samples import START, Sample, add_trial, begin_run

from search import columns, objectives
from search.progress import Progress, progress
from search.repeats import configurations, repeat_id
from search.reporting.build import build_report
from search.reporting.progress_view import ProgressView, show_progress
from search.reporting.record import read_record
from search.run_folder import RunFolder

ROW = dict.fromkeys(columns.trials_schema({}, []).names)


def trial(number: int, miou: float, latency_ms: float, *, repeat: int = 0, **values: Any) -> dict[str, Any]:
    configuration = f"t{number:04d}"
    return (
        ROW
        | {columns.TRIAL_ID: repeat_id(configuration, repeat), columns.CONFIGURATION: configuration}
        | {columns.REPEAT: repeat, columns.STATE: columns.COMPLETED, columns.MIOU: miou}
        | {columns.LATENCY_MS: latency_ms, columns.SIZE_MB: 10.0}
        | values
    )


def epoch(trial_id: str, at_s: float, time_s: float | None = 10.0) -> dict[str, Any]:
    """Reported ``at_s`` seconds after the start."""
    at = START + timedelta(seconds=at_s)
    return {columns.TRIAL_ID: trial_id, columns.EPOCH: 1, columns.REPORTED_AT: at, columns.EPOCH_TIME_S: time_s}


def follow(epochs: list[dict[str, Any]], trials: list[dict[str, Any]]) -> Progress:
    table = pa.Table.from_pylist(epochs, schema=columns.epochs_schema([]))
    drawn = configurations(trials)
    reference = objectives.reference_point(pa.Table.from_pylist(drawn)) if drawn else {}
    return progress(table, trials, drawn, reference)


def test_every_step_is_the_hypervolume_of_what_was_completed() -> None:
    chance = random.Random(0)
    trials = [trial(i, chance.random(), chance.uniform(1, 50), size_mb=chance.uniform(1, 9)) for i in range(60)]
    found = follow([epoch(row[columns.TRIAL_ID], 100 * i) for i, row in enumerate(trials)], trials)
    table = pa.Table.from_pylist(trials)
    reference = objectives.reference_point(table)
    for step in found.hypervolume:
        number = round(step.spent_s / 10)
        assert trials[number - 1][columns.TRIAL_ID] == step.trial_id
        assert math.isclose(step.value, objectives.hypervolume(table.slice(0, number), reference))
    assert [step.value for step in found.hypervolume] == sorted({step.value for step in found.hypervolume})
    assert math.isclose(found.hypervolume[-1].value, objectives.hypervolume(table))
    assert found.best[-1].value == max(row[columns.MIOU] for row in trials)
    assert found.total_s == 600


def test_stopped_trials_cost_and_pauses_do_not() -> None:
    trials = [trial(0, 0.4, 9.0), trial(1, 0.9, 9.0, state=columns.STOPPED), trial(2, 0.5, 9.0), trial(3, 0.5, 9.0)]
    epochs = [epoch("t0000", 10), epoch("t0001", 20, 5.0), epoch("t0002", 1e6, 30.0), epoch("t0003", 2e6)]
    found = follow(epochs, trials)
    assert [(step.spent_s, step.value, step.trial_id) for step in found.best] == [
        (10.0, 0.4, "t0000"),
        (45.0, 0.5, "t0002"),
    ]
    assert [step.trial_id for step in found.hypervolume] == ["t0000", "t0002"]
    assert found.total_s == 55


def test_a_configuration_counts_with_the_mean_from_its_last_run_on() -> None:
    trials = [trial(0, 0.4, 9.0), trial(1, 0.5, 9.0), trial(0, 0.8, 9.0, repeat=1)]
    trials.append(trial(0, 0.9, 9.0, repeat=2, state=columns.FAILED))
    names = ("t0000", "t0001", "t0000-1", "t0000-2")
    found = follow([epoch(name, 10 * (i + 1)) for i, name in enumerate(names)], trials)
    assert [(step.spent_s, step.trial_id) for step in found.best] == [(20.0, "t0001"), (30.0, "t0000")]
    assert found.best[-1].value == pytest.approx(0.6)
    assert found.total_s == 40


def test_what_has_no_time_is_told() -> None:
    epochs = [epoch("t0000", 10), epoch("t0000", 11, None), epoch("t0000", 12, math.nan)]
    ended: dict[str, Any] = {columns.ENDED_AT: START + timedelta(seconds=60)}
    found = follow(epochs, [trial(0, 0.4, 9.0), trial(1, 0.5, 9.0, **ended), trial(2, 0.6, 9.0)])
    assert (found.untimed_epochs, found.unplaced, found.total_s) == (2, ("t0002",), 10.0)
    assert [step.trial_id for step in found.best] == ["t0000", "t0001"]
    broken = follow(epochs, [trial(0, math.nan, 9.0), trial(1, 0.5, math.nan)])
    assert (broken.hypervolume, broken.best, broken.unplaced) == ((), (), ())
    assert follow([], []).total_s == 0


def add_timed(sample: Sample, index: int, state: str, miou: float, epoch_time_s: float = 60.0, **values: Any) -> None:
    """A trial of one epoch, reported an hour after the one before."""
    name = add_trial(sample, index, state, index % 5, epochs=0, miou=miou, **values)
    sample.epochs.append(epoch(name, 3600 * (index + 1), epoch_time_s) | {columns.MIOU: miou})


def view(path: Path, mious: list[float], settings: str = "", **values: Any) -> ProgressView:
    sample = begin_run(path)
    with sample.folder.config.open("a") as stream:
        stream.write(settings)
    for index, miou in enumerate(mious):
        add_timed(sample, index, columns.COMPLETED, miou, **values)
    return show_progress(read_record(sample.run))


@pytest.mark.parametrize(
    ("device", "settings", "unit", "total"),
    [
        ("cpu", "", "trial minutes on CPU", 10.0),
        ("Processor X (4 threads)", "", "trial minutes on CPU", 10.0),
        ("Some GPU 80GB", "", "GPU minutes", 10.0),
        ("Some GPU 80GB", "resources: {gpus_per_trial: null}", "GPU minutes", 10.0),
        ("Some GPU 80GB", "resources: {gpus_per_trial: 0.25}", "GPU minutes", 2.5),
        ("Some GPU 80GB", "resources: {gpus_per_trial: 0.5, workers_per_trial: 4}", "GPU minutes", 20.0),
        ("Some GPU 80GB", "resources: {gpus_per_trial: auto}", "trial minutes on GPU", 10.0),
        (None, "", "trial minutes", 10.0),
    ],
)
def test_time_is_counted_in_what_was_used(
    tmp_path: Path, device: str | None, settings: str, unit: str, total: float
) -> None:
    shown = view(tmp_path / "run", [0.3] * 10, settings, device=device)
    assert shown.chart is not None
    assert (shown.chart["unit"], shown.chart["series"][0]["total"]) == (unit, total)
    assert ("had 0.25 of a GPU" in shown.caption) == ("0.25" in settings)


def test_sentences_tell_when_and_whether_it_levelled_off(tmp_path: Path) -> None:
    early = view(tmp_path / "early", [0.5] + [0.3] * 19, latency_ms=9.0, size_mb=9.0)
    assert early.sentences == [
        "95 % of the final hypervolume was reached after 1.00 of 20.0 trial minutes on CPU; "
        "the best mIoU, 0.500 (t0000), after 1.00.",
        "The front last changed after 1.00 trial minutes on CPU (t0000); over the last quarter of the time the "
        "hypervolume grew not at all: the search had levelled off.",
    ]
    late = view(tmp_path / "late", [0.4] * 19 + [0.5], latency_ms=9.0, size_mb=9.0)
    assert late.sentences[0].startswith("95 % of the final hypervolume was reached after 20.0 of 20.0")
    assert "grew by 20 % of its final value: the search had not levelled off" in late.sentences[1]


def test_a_run_without_completed_trials_says_so(tmp_path: Path) -> None:
    assert view(tmp_path / "nothing", []).sentences == [
        "No completed trial has mIoU, latency and size, so there is no progress to show."
    ]
    sample = begin_run(tmp_path / "stopped")
    add_timed(sample, 0, columns.STOPPED, 0.3)
    shown = show_progress(read_record(sample.run))
    assert shown.chart is None
    assert shown.sentences[0].endswith("although 60.0 trial seconds on CPU went into training.")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    sample = begin_run(tmp_path_factory.mktemp("runs") / "searched")
    for index in range(10):
        add_timed(sample, index, columns.COMPLETED, 0.3 + 0.02 * index)
    build_report(sample.run)
    return sample.folder


@pytest.mark.browser
def test_a_step_selects_its_trial(browser: Browser, searched: RunFolder) -> None:
    page, trouble = opened(browser, searched, drawn="#progress-chart")
    points = page.locator("#progress-chart .scatterlayer .trace path.point")
    expect(page.locator("#progress-chart .xtitle")).to_have_text("trial minutes on CPU")
    point = points.nth(2)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    expect(page.locator("#progress-chart .hovertext")).to_contain_text("best mIoU 0.340 after 3 trial minutes on CPU")
    page.mouse.click(*middle)
    expect(page.locator("#trials-table tr.selected")).to_have_attribute("data-trial", "t0002")
    assert trouble == []
    page.context.close()
