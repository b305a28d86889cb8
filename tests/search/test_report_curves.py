"""The learning curves of the report: their data, and what the page draws of them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from open_page import opened
from packed_page import data_of, unpacked_numbers
from playwright.sync_api import Browser, Page, expect
from run_samples import Sample, add_architectures, add_epochs, add_trial, begin_run, compared_run

from search import columns
from search.reporting.build import build_report
from search.reporting.curve_data import Factor, compared, curves, drawn_trials, factors
from search.reporting.record import Record, numbers, read_record
from search.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = compared_run(tmp_path_factory.mktemp("runs") / "compared")
    build_report(run)
    return run


@pytest.fixture(scope="module")
def record(run: RunFolder) -> Record:
    return read_record(run)


@pytest.fixture
def page(browser: Browser, run: RunFolder) -> Iterator[Page]:
    page, trouble = opened(browser, run)
    yield page
    page.context.close()
    assert trouble == []


def add_curve(sample: Sample, trial: str, values: list[float], first: int = 1) -> None:
    for epoch, value in enumerate(values, start=first):
        sample.epochs.append({columns.TRIAL_ID: trial, columns.EPOCH: epoch, columns.MIOU: value})


def test_curves_lie_behind_each_other_and_only_odd_epochs_are_written(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "packed")
    add_curve(sample, "t0001", [0.1, 0.2], first=4)
    add_curve(sample, "t0000", [0.123456, math.nan, 0.5])
    record = read_record(sample.run)
    written = curves(record, ["t0000", "t0001"])
    assert (written["trials"], written["lengths"]) == (["t0000", "t0001"], [3, 2])
    assert written["epochs"] == {"t0001": [4, 5]}
    assert list(written["series"]) == [columns.MIOU]
    unpacked = unpacked_numbers(written["series"][columns.MIOU])
    assert unpacked == pytest.approx([0.123456, math.nan, 0.5, 0.1, 0.2], rel=2e-5, nan_ok=True)
    assert curves(record, [])["series"] == {}


def searched(tmp_path: Path) -> Record:
    """Twelve trials of four epochs, the even ones completed and ever better, and one run more of the first."""
    sample = begin_run(tmp_path / "long")
    for index in range(12):
        state = columns.STOPPED if index % 2 else columns.COMPLETED
        add_trial(sample, index, state, 0, epochs=4, miou=0.3 + 0.01 * index)
    add_trial(sample, 0, columns.COMPLETED, 0, epochs=4, repeat=1, miou=0.3)
    return read_record(sample.run)


def test_all_curves_are_drawn_while_they_are_few(tmp_path: Path) -> None:
    record = searched(tmp_path)
    assert drawn_trials(record) == [row[columns.TRIAL_ID] for row in record.trials]
    assert drawn_trials(record, 13 * 4) == drawn_trials(record)


def test_of_many_curves_the_front_the_best_and_a_spread_are_drawn(tmp_path: Path) -> None:
    record = searched(tmp_path)
    assert [row[columns.TRIAL_ID] for row in record.front_rows] == ["t0010"]
    assert drawn_trials(record, 1) == ["t0010"]
    best, spread = ["t0006", "t0008"], ["t0000", "t0000-1", "t0004"]
    assert drawn_trials(record, 24) == sorted(["t0010", *best, *spread])
    assert drawn_trials(record, 13 * 4 - 1) == [trial for trial in drawn_trials(record) if trial != "t0011"]
    # Both runs of a configuration, or where only one has room, none.
    assert drawn_trials(record, 15) == ["t0000", "t0000-1", "t0010"]
    assert drawn_trials(record, 11) == ["t0010"]


def test_values_of_a_factor_are_in_order_and_as_in_a_space_file() -> None:
    rates = "model.aspp_rates"
    rows: list[dict[str, Any]] = [{rates: "[6, 12]"}, {rates: "[12, 24]"}, {rates: None}, {rates: "[6, 12]"}]
    factor = Factor.of(rates, rows, [[6, 12], [1], [12, 24]])  # nobody drew [1]
    assert factor.as_json() == {"key": rates, "heading": "aspp_rates", "values": ["[6, 12]", "[12, 24]"]}
    assert [factor.place(row) for row in rows] == [0, 1, None, 0]
    policies = [{"augmentation.policy": name} for name in ("strong", "none", "light")]
    ordered = Factor.of("augmentation.policy", policies, ["none", "light", "strong"])
    assert ordered.as_json()["values"] == ["none", "light", "strong"]
    switch = Factor.of("loss.name", [{"loss.name": True}, {"loss.name": False}]).as_json()
    assert (switch["heading"], switch["values"]) == ("loss", ["false", "true"])


def test_the_space_says_what_to_compare_first(record: Record, tmp_path: Path) -> None:
    assert compared(record) == ["model.aspp", "loss.class_weights", "optimizer.lr"]
    assert compared(read_record(begin_run(tmp_path / "without").run)) == []


def test_only_trials_with_a_curve_give_values(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "some")
    add_trial(sample, 0, columns.COMPLETED, 2, epochs=2)
    add_trial(sample, 1, columns.COMPLETED, 4, epochs=2)
    add_trial(sample, 2, columns.INFEASIBLE, 5, epochs=0)
    record = read_record(sample.run)
    found = {factor.path: list(factor.values.values()) for factor in factors(record, record.spans)}
    assert found["model.backbone"] == ["mobilenet_v3_small", "resnet18"]


def test_five_hundred_curves_of_a_hundred_epochs_stay_small(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "many")
    add_architectures(sample)
    for index in range(500):
        add_trial(sample, index, columns.COMPLETED, index % 5, epochs=100)
    page = build_report(sample.run).page.read_text()
    assert len(page) < 15e6
    assert len(json.dumps(data_of(page)["curves"])) < 2.1e6


def traces(page: Page) -> list[dict[str, Any]]:
    """What the chart was given to draw, without its legend."""
    script = "JSON.stringify(document.getElementById('curve-chart').data.filter((trace) => !trace.showlegend))"
    drawn: list[dict[str, Any]] = json.loads(page.evaluate(script))
    return drawn


def lines(page: Page, dash: str = "solid", *, width: float = 1.5) -> dict[str, list[float | None]]:
    """Trial to the y values of its line; a raw curve behind a smoothed one has width 1, a selected one 4."""
    found: dict[str, list[float | None]] = defaultdict(list)
    for trace in traces(page):
        if trace["mode"] == "lines" and trace["line"].get("dash") == dash and trace["line"]["width"] == width:
            for trial, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True):
                assert (trial is None) == (x is None)
                if trial is not None:
                    found[trial].append(y)
    return found


def recorded(record: Record, trial: str, column: str) -> list[float]:
    return list(numbers(record.epochs, column)[record.spans[trial]])


def averaged(values: list[float], weight: float) -> list[float]:
    """EMA as a weighted mean of all that went before."""
    weights = [weight**age for age in range(len(values))]
    parts = [zip(weights, reversed(values[: last + 1]), strict=False) for last in range(len(values))]
    return [sum(w * v for w, v in part) / sum(weights[: last + 1]) for last, part in enumerate(parts)]


def few_valued(record: Record, configurations: set[str]) -> list[str]:
    rows = [row for row in record.trials if row[columns.CONFIGURATION] in configurations]
    counts = {path: len({row[path] for row in rows} - {None}) for path in record.varying}
    return [path for path, count in counts.items() if 2 <= count <= 6]


@pytest.mark.browser
def test_validation_is_solid_and_training_dotted(page: Page, record: Record) -> None:
    page.locator("#curve-mean").uncheck()
    page.locator("#curve-factor").select_option("")
    for metric, validation, training in (
        ("miou", columns.MIOU, columns.TRAIN_MIOU),
        ("pixel_accuracy", columns.PIXEL_ACCURACY, columns.TRAIN_PIXEL_ACCURACY),
        ("mean_class_accuracy", columns.MEAN_CLASS_ACCURACY, columns.TRAIN_MEAN_CLASS_ACCURACY),
        ("loss", columns.VAL_LOSS, columns.TRAIN_LOSS),
    ):
        page.locator("#curve-metric").select_option(metric)
        solid, dotted = lines(page), lines(page, "dot")
        assert set(solid) == set(dotted) == set(record.spans)
        for trial in ("t0000", "t0007-2", "t0016"):
            assert solid[trial] == pytest.approx(recorded(record, trial, validation), rel=1e-3)
            assert dotted[trial] == pytest.approx(recorded(record, trial, training), rel=1e-3)


@pytest.mark.browser
def test_a_page_that_does_not_hold_all_curves_says_so(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = searched(tmp_path)
    held = drawn_trials(record, 24)
    monkeypatch.setattr("search.reporting.payload.drawn_trials", lambda record: drawn_trials(record, 24))
    page, trouble = opened(browser, RunFolder(build_report(record.run, record).page.parents[1]))
    page.locator("#curve-mean").uncheck()
    assert set(lines(page)) == set(held)
    expect(page.locator("#curves")).to_contain_text(f"This page holds the curves of {len(held)} of 13 trials")
    expect(page.locator("#curve-trials")).to_contain_text("all that are here")
    page.locator("#trials-table tr[data-trial=t0003] button.trial").click()
    expect(page.locator("#curve-shown")).to_have_text(
        f"Shown: {len(held)} trials. The curve of t0003 is not in this page."
    )
    page.locator("#trials-table tr[data-trial=t0004] button.trial").click()
    expect(page.locator("#curve-shown")).to_have_text(f"Shown: {len(held)} trials.")
    page.context.close()
    assert trouble == []


@pytest.mark.browser
def test_series_can_be_switched_off(page: Page) -> None:
    page.locator("#curve-training").uncheck()
    assert lines(page)
    assert not lines(page, "dot")
    page.locator("#curve-validation").uncheck()
    assert not lines(page)
    expect(page.locator("#curve-chart .annotation-text")).to_have_text("No trial has this to show")


@pytest.mark.browser
def test_switches_without_a_series_are_off(page: Page) -> None:
    page.locator("#curve-metric").select_option("miou_foreground")
    expect(page.locator("#curve-training")).to_be_disabled()
    expect(page.locator("#curve-validation")).to_be_enabled()
    page.locator("#curve-metric").select_option("lr")
    expect(page.locator("#curve-validation")).to_be_disabled()
    expect(page.locator("#curve-smooth")).to_be_disabled()
    page.locator("#curve-factor").select_option("")
    drawn = lines(page)
    assert len(drawn) == 17
    assert all(values == pytest.approx([1e-3] * len(values), rel=2e-5) for values in drawn.values())
    expect(page.locator("#curve-chart .ytitle")).to_have_text("learning rate")


@pytest.mark.browser
@pytest.mark.parametrize("weight", ["0.6", "0.9"])
def test_smoothing_is_a_corrected_moving_average(page: Page, record: Record, weight: str) -> None:
    page.locator("#curve-mean").uncheck()
    page.locator("#curve-factor").select_option("")
    page.locator("#curve-smooth").select_option(weight)
    expect(page.locator("#curve-chart .ytitle")).to_have_text(f"mIoU (EMA {weight})")
    smooth = lines(page)
    assert set(smooth) == set(record.spans)
    for trial, values in smooth.items():
        expected = averaged(recorded(record, trial, columns.MIOU), float(weight))
        assert values == pytest.approx(expected, rel=1e-3)


@pytest.mark.browser
def test_raw_curves_stay_behind_a_few_smoothed_ones(page: Page, record: Record) -> None:
    page.locator("#curve-mean").uncheck()
    page.locator("#curve-factor").select_option("")
    page.locator("#curve-smooth").select_option("0.9")
    assert not lines(page, width=1)
    page.locator("#curve-trials").select_option("front")
    raw = lines(page, width=1)
    assert set(raw) == set(lines(page)) >= {row[columns.TRIAL_ID] for row in record.front_rows}
    assert all(
        values == pytest.approx(recorded(record, trial, columns.MIOU), rel=1e-3) for trial, values in raw.items()
    )


@pytest.mark.browser
def test_panels_of_the_first_factor_share_their_axes(page: Page, record: Record) -> None:
    expect(page.locator("#curve-factor")).to_have_value("model.aspp")
    expect(page.locator("#curve-chart .annotation-text")).to_have_text(["aspp: false", "aspp: true"])
    ranges = page.evaluate(
        "['xaxis', 'xaxis2', 'yaxis', 'yaxis2'].map((name) => "
        "document.getElementById('curve-chart')._fullLayout[name].range)"
    )
    assert ranges[0] == ranges[1]
    assert ranges[2] == ranges[3]
    value = {row[columns.TRIAL_ID]: row["model.aspp"] for row in record.trials}
    for trace in traces(page):
        if trace["mode"] == "lines" and "customdata" in trace:
            assert {value[trial] for trial in trace["customdata"] if trial} == {trace["xaxis"] == "x2"}


@pytest.mark.browser
def test_trials_without_the_factor_are_counted(page: Page, record: Record) -> None:
    without = sum(row["model.aspp"] is None for row in record.trials)
    expect(page.locator("#curve-shown")).to_contain_text(f"Left out, having no model.aspp: {without} runs.")
    page.locator("#curve-mean").uncheck()
    expect(page.locator("#curve-shown")).to_contain_text(f"Left out, having no model.aspp: {without} trials.")
    label = page.locator("#curve-chart").get_attribute("aria-label")
    assert label
    assert label.startswith("Learning curves: mIoU against epoch, by model.aspp. Shown:")


def wait_for_width(page: Page, width: int) -> None:
    """Until the charts have followed the window; the page's own policy forbids to wait inside it."""
    for _ in range(100):
        if page.evaluate("document.documentElement.scrollWidth") == width:
            return
        page.wait_for_timeout(50)
    raise AssertionError(page.evaluate("document.documentElement.scrollWidth"))


@pytest.mark.browser
def test_panels_lie_beside_each_other_or_stack(page: Page) -> None:
    def domains(axis: str) -> list[list[float]]:
        script = f"['{axis}', '{axis}2'].map((name) => document.getElementById('curve-chart').layout[name].domain)"
        found: list[list[float]] = page.evaluate(script)
        return found

    assert domains("xaxis")[0][1] < domains("xaxis")[1][0]
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator("#curve-chart")).to_have_attribute("data-rows", "2")
    assert domains("xaxis")[0] == domains("xaxis")[1]
    assert domains("yaxis")[0][0] > domains("yaxis")[1][1]
    wait_for_width(page, 390)
    chart = page.locator("#curve-chart .main-svg").first.bounding_box()
    below = page.locator("#curve-shown").bounding_box()
    assert chart
    assert below
    assert chart["y"] + chart["height"] <= below["y"] + 1


@pytest.mark.browser
def test_values_are_text(page: Page, record: Record) -> None:
    page.locator("#curve-factor").select_option("loss.class_weights")
    assert record.space
    values = next(item.values for item in record.space.parameters if item.path == "loss.class_weights")
    assert "<i>median & frequency</i>" in values
    drawn_besides = "inverse_frequency"
    titles = [f"class_weights: {value}" for value in (*values, drawn_besides)]
    expect(page.locator("#curve-chart .annotation-text")).to_have_text(titles)


@pytest.mark.browser
def test_offered_factors_have_a_few_values_among_the_shown(page: Page, record: Record) -> None:
    offered = page.locator("#curve-factor option")
    expect(offered).to_have_text(["nothing", *few_valued(record, {row[columns.TRIAL_ID] for row in record.trials})])
    page.locator("#curve-trials").select_option("front")
    front = {row[columns.TRIAL_ID] for row in record.front_rows}
    expect(offered).to_have_text(["nothing", *few_valued(record, front)])


@pytest.mark.browser
def test_mean_of_repeats_has_a_band(page: Page, record: Record) -> None:
    page.locator("#curve-factor").select_option("")
    mean = lines(page)
    runs = [recorded(record, trial, columns.MIOU) for trial in ("t0003", "t0003-1", "t0003-2")]
    by_epoch = list(zip(*runs, strict=True))
    assert set(mean) == {row[columns.CONFIGURATION] for row in record.trials}
    assert mean["t0003"] == pytest.approx([fmean(values) for values in by_epoch], rel=1e-3)
    outline = [*map(max, by_epoch), *reversed([*map(min, by_epoch)])]
    bands = [trace["y"] for trace in traces(page) if trace.get("fill") == "toself"]
    starts = [
        (band, index)
        for band in bands
        for index, value in enumerate(band)
        if value == pytest.approx(outline[0], rel=1e-3)
    ]
    assert any(band[index : index + 6] == pytest.approx(outline, rel=1e-3) for band, index in starts)


@pytest.mark.browser
def test_hover_tells_over_how_many_runs(page: Page) -> None:
    texts = [text for trace in traces(page) for text in trace.get("hovertext", [])]
    assert any(text.startswith("<b>t0004 ·") and "mean of n = 3 runs" in text for text in texts)
    page.locator("#curve-factor").select_option("")
    texts = [text for trace in traces(page) for text in trace.get("hovertext", [])]
    assert any(text.startswith("<b>t0016 ·") and "one run (n = 1)" in text for text in texts)


@pytest.mark.browser
def test_selected_run_stands_out(page: Page) -> None:
    shown = page.locator("#curve-shown").inner_text()
    page.locator("#trials-table tr[data-trial=t0004-1] button.trial").click()
    assert set(lines(page, width=4)) == {"t0004"}
    assert page.locator("#curve-shown").inner_text() == shown
    page.locator("#curve-mean").uncheck()
    assert set(lines(page, width=4)) == {"t0004-1"}
    page.locator("#curve-factor").select_option("")
    page.locator("#trials-table tr[data-trial=t0016] button.trial").click()
    page.locator("#curve-trials").select_option("completed")
    assert "t0016" in lines(page)


@pytest.mark.browser
def test_gaps_stay_gaps_and_unequal_runs_are_averaged_where_they_are(browser: Browser, tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "gaps")
    for repeat, epochs in enumerate((4, 2)):
        add_trial(sample, 0, columns.COMPLETED, 0, epochs=epochs, repeat=repeat)
    gap = add_trial(sample, 1, columns.COMPLETED, 0, epochs=1)
    (row,) = add_epochs(sample, gap, 1, 0.5)
    for epoch, miou in enumerate((0.2, math.nan, 0.4), start=1):
        sample.epochs.append(row | {columns.EPOCH: epoch, columns.MIOU: miou, columns.LR: 10.0**-epoch})
    build_report(sample.run)
    page, trouble = opened(browser, sample.run)
    texts = [text for trace in traces(page) if trace["mode"] == "lines" for text in trace.get("hovertext", [])]
    assert sum("n = 2" in text for text in texts) == sum("n = 1" in text and "t0000" in text for text in texts) == 4
    page.locator("#curve-smooth").select_option("0.6")
    smooth = lines(page)[gap]
    assert smooth[1] is None
    assert [smooth[0], smooth[2]] == pytest.approx(averaged([0.2, 0.4], 0.6), rel=2e-5)
    page.locator("#curve-metric").select_option("lr")
    expect(page.locator("#curve-chart .ytitle")).to_have_text("learning rate (log scale)")
    assert lines(page)[gap] == pytest.approx([0.1, 0.01, 0.001], rel=2e-5)
    page.context.close()
    assert trouble == []
