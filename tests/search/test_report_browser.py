"""The page in a real browser, opened from disk with the network cut."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from open_page import opened
from playwright.sync_api import Browser, Page, expect
from run_samples import EPOCHS, add_trial, begin_run, compared_run, full_run

from search import columns
from search.luck import LUCK
from search.reporting.build import build_report
from search.reporting.record import read_record
from search.run_folder import RunFolder

pytestmark = pytest.mark.browser

POINT = ".scatterlayer .trace path.point"
COMPLETED, STOPPED, REFERENCES = 16, 9, 2
"""Of the demo: completed trials, stopped ones, and lines of models that learned nothing."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = full_run(tmp_path_factory.mktemp("runs") / "demo")
    build_report(run)
    return run


@pytest.fixture
def page(browser: Browser, demo: RunFolder) -> Iterator[Page]:
    page, trouble = opened(browser, demo)
    yield page
    page.context.close()
    assert trouble == []


def last_point(page: Page) -> tuple[float, float]:
    """Where the last trial of the Pareto plot is on the screen."""
    point = page.locator(f"#pareto-chart {POINT}").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def column(page: Page, table: str, key: str) -> list[str]:
    index = page.locator(f"#{table} thead th").evaluate_all(
        "(cells, key) => cells.findIndex((cell) => cell.dataset.key === key)", key
    )
    cells: list[str] = page.locator(f"#{table} tbody tr").evaluate_all(
        "(rows, index) => rows.map((row) => row.cells[index].textContent)", index
    )
    return cells


def test_nasty_names_are_text(page: Page) -> None:
    assert page.title() == "demo – segmentation search"
    expect(page.locator("header .classes li").nth(3)).to_have_text("<script>alert(1)</script>")
    expect(page.locator("header .classes li").nth(4)).to_have_text("草地 ünïcode")
    expect(page.locator("#pareto-chart .annotation-text")).to_contain_text("all <b>background</b> 0.094")
    assert page.locator("main em, main img, main b").count() == 0


def test_nothing_is_wider_than_a_phone(browser: Browser, demo: RunFolder) -> None:
    page, trouble = opened(browser, demo, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.context.close()
    assert trouble == []


def test_hover_tells_the_configuration(page: Page) -> None:
    page.mouse.move(*last_point(page))
    hover = page.locator("#pareto-chart .hovertext")
    expect(hover).to_contain_text("unet small")
    expect(hover).to_contain_text("optimizer.lr")
    expect(hover).to_contain_text(f"completed, epoch {EPOCHS} of {EPOCHS}")


def test_click_selects_the_trial_everywhere(page: Page) -> None:
    curves = page.locator("#curve-chart .scatterlayer .trace").count()
    page.mouse.click(*last_point(page))
    expect(page.locator("#selected h3")).to_contain_text("unet small")
    chosen = page.locator("#trials-table tr.selected")
    expect(chosen).to_have_count(1)
    trial = chosen.get_attribute("data-trial")
    assert trial
    expect(page.locator("#selected h3")).to_contain_text(trial)
    expect(page.locator("#curve-chart .scatterlayer .trace")).to_have_count(curves + 3)  # two lines and an end
    page.locator("#trials-table tr.selected button.trial").click()
    expect(page.locator("#selected")).to_be_hidden()
    expect(page.locator("tr.selected")).to_have_count(0)


def test_reason_of_a_failure_is_shown_as_text(page: Page) -> None:
    page.locator("#trials-table tr[data-trial=t0025] button.trial").click()
    expect(page.locator("#selected")).to_contain_text('RuntimeError: "boom" </script><script>document.title')
    assert page.title() == "demo – segmentation search"


def test_axis_can_be_chosen(page: Page) -> None:
    ticks = set()
    offered = page.locator("#axis option").evaluate_all("(options) => options.map((option) => option.value)")
    assert offered == ["latency_ms", "latency_cpu_ms", "size_mb", "params", "train_time_s"]  # none was on a GPU
    for axis, heading in {"size_mb": "size, MB", "params": "parameters", "train_time_s": "training, s"}.items():
        page.locator("#axis").select_option(axis)
        expect(page.locator("#pareto-chart .xtitle")).to_have_text(f"{heading} (log scale)")
        expect(page.locator(f"#pareto-chart {POINT}")).to_have_count(COMPLETED + STOPPED)
        ticks.add(tuple(page.locator("#pareto-chart .xtick").all_text_contents()))
    assert len(ticks) == 3


def test_each_state_can_be_shown(page: Page) -> None:
    points, chips = page.locator(f"#pareto-chart {POINT}"), page.locator("#pareto-states label")
    expect(chips).to_have_text(
        ["● completed (16)", "○ stopped (9)", "◉ interrupted (2)", "× failed (1)", "| infeasible (1)"]
    )
    expect(points).to_have_count(COMPLETED + STOPPED)
    for state, shown in {"stopped": COMPLETED, "failed": COMPLETED + 1, "completed": 1}.items():
        page.locator(f"#pareto-states input[value={state}]").click()
        expect(points).to_have_count(shown)
    page.locator("#pareto-states input[value=interrupted]").check()
    page.locator("#axis").select_option("train_time_s")
    expect(points).to_have_count(1 + 2)
    expect(page.locator("#pareto-left-out")).to_be_empty()
    page.locator("#axis").select_option("latency_ms")
    expect(page.locator("#pareto-left-out")).to_have_text("Not drawn for want of this cost: 2.")


def test_trials_without_miou_lie_below_the_plot(page: Page) -> None:
    page.locator("#pareto-states input[value=completed]").uncheck()
    page.locator("#pareto-states input[value=stopped]").uncheck()
    page.locator("#pareto-states input[value=infeasible]").check()
    expect(page.locator("#pareto-chart .y2tick")).to_have_text("no mIoU")
    page.mouse.move(*last_point(page))
    expect(page.locator("#pareto-chart .hovertext")).to_contain_text("latency_ms 95.5 > 80")
    page.mouse.click(*last_point(page))
    expect(page.locator("#trials-table tr.selected")).to_have_attribute("data-trial", "t0024")
    expect(page.locator("#pareto-chart .shapelayer path")).to_have_count(1)
    expect(page.locator("#pareto-chart")).to_contain_text("No trial shown has mIoU and latency, ms")


def test_a_trial_of_the_front_is_selected_in_the_plot_and_in_its_table(page: Page) -> None:
    rings = page.locator("#pareto-chart .shapelayer path")
    expect(rings).to_have_count(REFERENCES)
    page.locator("#answer button.trial").first.click()
    expect(rings).to_have_count(REFERENCES + 1)
    expect(page.locator("#front-table tr.selected")).to_have_attribute("data-trial", "t0002")
    ring, legend = rings.last.bounding_box(), page.locator("#pareto-chart .plotbg, #pareto-chart .nsewdrag").first
    box = legend.bounding_box()
    assert ring
    assert box
    assert box["x"] < ring["x"] < box["x"] + box["width"]
    assert abs(ring["width"] - ring["height"]) < 1
    page.locator("#answer button.trial").first.click()
    expect(rings).to_have_count(REFERENCES)


def test_commands_of_the_answer_are_copied(page: Page, demo: RunFolder) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card = page.locator("#answer .card").nth(1)
    card.locator("button.copy").click()
    expect(card.locator("[role=status]")).to_have_text("Copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"python -m search.export {demo.argument()} trial=knee"


def test_places_that_could_be_luck_are_marked(browser: Browser, tmp_path: Path) -> None:
    run = compared_run(tmp_path / "repeated")
    build_report(run)
    places = read_record(run).places
    lucky = [trial for trial, place in places.items() if place.verdict == LUCK]
    page, trouble = opened(browser, run)
    expect(page.locator("#front-table td.doubt")).to_have_count(len(lucky))
    expect(page.locator("#doubts li")).to_have_count(len(lucky))
    expect(page.locator("#pareto-chart .textpoint")).to_have_text(["?"] * len(lucky))
    expect(page.locator("#pareto-chart .legendtext", has_text="95 % interval")).to_have_count(1)
    expect(page.locator("#answer .card .doubt").first).to_have_text("place could be luck")
    page.context.close()
    assert trouble == []


def test_sorting_by_number_keeps_missing_values_last(page: Page) -> None:
    header = page.locator("#trials-table thead th[data-key=miou] button")
    for order in ("ascending", "descending"):
        header.click()
        expect(page.locator("#trials-table thead th[data-key=miou]")).to_have_attribute("aria-sort", order)
        cells = column(page, "trials-table", "miou")
        values = [float(text) for text in cells if text != "–"]
        assert values == sorted(values, reverse=order == "descending")
        assert cells.index("–") == len(values) == 27
    page.locator("#trials-table thead th[data-key=state] button").click()
    states = column(page, "trials-table", "state")
    assert states == sorted(states)


def test_trials_can_be_filtered_by_state_and_text(page: Page) -> None:
    page.locator("#filters input[value=completed]").uncheck()
    assert set(column(page, "trials-table", "state")) == {"stopped", "infeasible", "failed", "interrupted"}
    page.locator("#find").fill("vgg11")
    assert column(page, "trials-table", "trial_id") == ["t0024"]
    expect(page.locator("#shown-trials")).to_have_text("1 of 29 shown")


def test_curves_can_be_smoothed_and_chosen(page: Page) -> None:
    line = page.locator("#curve-chart .scatterlayer .js-line").first
    raw = line.get_attribute("d")
    page.locator("#curve-smooth").select_option("0.6")
    smooth = line.get_attribute("d")
    assert raw != smooth
    page.locator("#curve-metric").select_option("loss")
    expect(page.locator("#curve-chart .ytitle")).to_have_text("loss (EMA 0.6)")
    ends = page.locator(f"#curve-chart {POINT}")
    expect(ends).to_have_count(28)
    page.locator("#curve-trials").select_option("front")
    expect(ends).to_have_count(5)


def test_legend_hides_an_architecture(page: Page) -> None:
    ends = page.locator(f"#curve-chart {POINT}")
    before = ends.count()
    page.locator("#curve-chart .legendtoggle").first.click()
    expect(ends).not_to_have_count(before)


def test_front_is_copied_as_csv(page: Page, demo: RunFolder) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy-front").click()
    expect(page.locator("#copied")).to_have_text("Copied.")
    copied = list(csv.DictReader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    with (demo.report / "front.csv").open(newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    for name in (columns.TRIAL_ID, columns.MIOU, "optimizer.lr"):
        pairs = zip([row[name] for row in copied], [row[name] for row in written], strict=True)
        assert all(a == b or math.isclose(float(a), float(b), rel_tol=1e-6) for a, b in pairs)


def poor_run(path: Path, kind: str) -> RunFolder:
    """A run that lacks most of what a report is about."""
    sample = begin_run(path)
    if kind == "stopped":
        add_trial(sample, 0, columns.STOPPED, 0, epochs=2, miou=math.nan)
    elif kind == "only epochs":
        sample.epochs.append({columns.TRIAL_ID: "t0000", columns.EPOCH: 3, columns.MIOU: math.nan})
    elif kind == "not a number":
        costs: dict[str, Any] = dict.fromkeys([columns.LATENCY_MS, columns.SIZE_MB, columns.TRAIN_TIME_S], math.nan)
        add_trial(sample, 0, columns.COMPLETED, 0, epochs=0, miou=math.nan, **costs)
        sample.epochs.append({columns.TRIAL_ID: "t0000", columns.EPOCH: 1, columns.MIOU: math.inf})
    elif kind == "one":
        add_trial(sample, 0, columns.COMPLETED, 0, epochs=1)
    elif kind == "no epochs":
        add_trial(sample, 0, columns.COMPLETED, 0, epochs=0, miou=0.3)
    for index in range(3 if kind == "constant" else 0):
        add_trial(sample, index, columns.COMPLETED, 0, epochs=1, miou=0.3, val_loss=math.nan)
    return sample.run


@pytest.mark.parametrize("kind", ["nothing", "stopped", "only epochs", "not a number", "one", "no epochs", "constant"])
def test_poor_runs_give_a_page_without_complaint(browser: Browser, tmp_path: Path, kind: str) -> None:
    run = poor_run(tmp_path / kind.replace(" ", "-"), kind)
    build_report(run)
    page, trouble = opened(browser, run)
    if kind in ("nothing", "stopped", "only epochs", "not a number"):
        expect(page.locator("#pareto-chart")).to_contain_text("No trial shown has mIoU and latency")
        expect(page.locator("#front")).to_contain_text("There is no front")
    else:
        expect(page.locator("#answer .card")).to_have_count(1)
    page.context.close()
    assert trouble == []
