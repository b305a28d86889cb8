"""What the page says and draws about what mattered."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from open_page import opened
from playwright.sync_api import Browser, Page, expect
from run_samples import COMPARED, REACHED, add_trial, begin_run

from search import columns
from search.reporting.build import build_report
from search.reporting.importance_view import ImportanceView, short_names, show_importance
from search.reporting.record import read_record
from search.run_folder import RunFolder

WEIGHTS = "<i>median & frequency</i>"
LINES = """(canvas) => {
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let drawn = 0;
  for (let i = 3; i < pixels.length; i += 4) drawn += pixels[i] > 0;
  return drawn;
}"""
"""Pixels of the parallel coordinates that are not empty."""


def drawn_run(path: Path, number: int) -> RunFolder:
    """Random draws in which the learning rate decides the mIoU."""
    sample = begin_run(path)
    with sample.folder.config.open("a") as stream:
        stream.write(f"space_name: drawn\nspace: {json.dumps(COMPARED)}\n")
    chance = random.Random(1)
    for index in range(number):
        profile, lr = chance.choice(list(REACHED)), 10 ** chance.uniform(-4, -2)
        drawn: dict[str, Any] = {
            "optimizer.lr": lr,
            "loss.class_weights": chance.choice(["none", WEIGHTS]),
            "training.batch_size": chance.choice([8, 16]),
        }
        miou = 0.6 - 0.2 * abs(math.log10(lr) + 3) + chance.gauss(0, 0.01)
        add_trial(sample, index, columns.COMPLETED, profile, epochs=1, miou=miou, **drawn)
    return sample.run


def shown(path: Path, number: int) -> ImportanceView:
    return show_importance(read_record(drawn_run(path, number)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = drawn_run(tmp_path_factory.mktemp("runs") / "drawn", 60)
    build_report(run)
    return run


def test_sentences_name_what_mattered_most(run: RunFolder) -> None:
    view = show_importance(read_record(run))
    number = r"0\.\d\d"
    interval = rf"\({number}, interval {number} to {number}\)"
    assert re.match(rf"What mattered most for mIoU: optimizer\.lr {interval}[.,]", view.sentences[0])
    assert re.match(r"What mattered most for latency: model\.", view.sentences[1])
    assert [panel.title for panel in view.rankings] == ["mIoU", "latency", "size", "reaching the front"]
    assert all(0 <= row.place <= 1 for panel in view.rankings + view.effects for row in panel.rows)
    effects = {panel.title: panel for panel in view.effects}
    assert [row.label for row in effects["loss.class_weights"].rows] == ["none", WEIGHTS]
    assert len(effects["optimizer.lr"].rows) == 4


def test_axes_hold_every_completed_configuration(run: RunFolder) -> None:
    chart = show_importance(read_record(run)).chart
    assert chart is not None
    axes = {axis["path"]: axis for axis in chart["axes"]}
    assert list(axes)[-3:] == [columns.SIZE_MB, columns.LATENCY_MS, columns.MIOU]
    assert {len(axis["values"]) for axis in chart["axes"]} == {len(chart["trials"])} == {60}
    assert [axes[name]["log"] for name in ("optimizer.lr", columns.LATENCY_MS, columns.MIOU)] == [True, True, False]
    assert axes["model.architecture"]["ticks"] == [[0, "unet"], [1, "deeplab"]]
    pairs = zip(axes["model.architecture"]["values"], axes["model.backbone"]["values"], strict=True)
    assert all((backbone is None) == (architecture == 0) for architecture, backbone in pairs)
    assert [label for _, label in axes["loss.class_weights"]["ticks"]] == ["none", WEIGHTS]


def test_paths_are_shortened_where_the_leaf_is_unique() -> None:
    paths = ["model.size", "data.size", "optimizer.lr", "loss.name"]
    assert list(short_names(paths).values()) == ["model.size", "data.size", "lr", "loss.name"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "No trial completed with an mIoU"),
        (1, "No parameter took several values"),
        (12, "12 completed configurations have mIoU, latency and size. Importance is shown from 20 on"),
    ],
)
def test_too_few_trials_are_told(tmp_path: Path, number: int, said: str) -> None:
    view = shown(tmp_path / "few", number)
    assert view.sentences[0].startswith(said)
    assert view.rankings == []
    assert (view.chart is None) == (number == 0)
    assert (view.effects == []) == (number < 2)


def test_without_a_space_effects_are_shown_all_the_same(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "bare")
    for index in range(6):
        add_trial(sample, index, columns.COMPLETED, index % 3, epochs=1)
    add_trial(sample, 6, columns.COMPLETED, 0, epochs=1, miou=math.nan, latency_ms=math.nan)
    view = show_importance(read_record(sample.run))
    assert "hold no space" in view.sentences[0]
    assert "model.architecture" in [panel.title for panel in view.effects]


def axis_box(page: Page, axis: int) -> tuple[float, float, float]:
    """Middle, top and bottom of an axis on the screen."""
    grip = page.locator(f'#parallel-chart .grip[data-axis="{axis}"]')
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"], box["y"] + box["height"]


@pytest.mark.browser
def test_lines_can_be_brushed_and_selected(browser: Browser, run: RunFolder) -> None:
    page, trouble = opened(browser, run)
    canvas, status = page.locator("#parallel-chart canvas"), page.locator("#parallel-shown")
    expect(status).to_have_text("60 of 60 shown")
    everything = canvas.evaluate(LINES)
    last = page.locator("#parallel-chart .grip").count() - 1
    x, top, bottom = axis_box(page, last)
    page.mouse.move(x, top)
    page.mouse.down()
    page.mouse.move(x, top + 0.25 * (bottom - top), steps=3)
    page.mouse.up()
    expect(status).not_to_have_text("60 of 60 shown")
    assert 0 < canvas.evaluate(LINES) < everything
    page.locator("#parallel-all").click()
    expect(status).to_have_text("60 of 60 shown")
    page.locator("#parallel-front").check()
    expect(status).not_to_have_text("60 of 60 shown")
    page.locator("#parallel-front").uncheck()
    x, top, _ = axis_box(page, last)
    page.mouse.click(x - 13, top + 8)  # beside the upper end of the mIoU axis, where the line of the best arrives
    expect(page.locator("#trials-table tr.selected")).to_have_count(1)
    assert canvas.evaluate(LINES) >= everything
    assert trouble == []
    page.context.close()


@pytest.mark.browser
def test_names_are_text_and_fit_a_phone(browser: Browser, run: RunFolder) -> None:
    page, trouble = opened(browser, run, width=390)
    expect(page.locator("#importance .dot-label", has_text=WEIGHTS)).to_have_count(1)
    titles = page.locator("#parallel-chart .tick title").evaluate_all(
        "(nodes) => nodes.map((node) => node.textContent)"
    )
    assert WEIGHTS in titles
    assert "–" in titles
    assert page.locator("#importance .dot-label i").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert trouble == []
    page.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["nothing", "one"])
def test_poor_runs_are_drawn_without_complaint(browser: Browser, tmp_path: Path, kind: str) -> None:
    sample = begin_run(tmp_path / kind)
    if kind == "one":
        add_trial(sample, 0, columns.COMPLETED, 0, epochs=1, miou=0.3)
    build_report(sample.run)
    page, trouble = opened(browser, sample.run)
    if kind == "nothing":
        expect(page.locator("#importance .empty")).to_contain_text("No trial completed")
        expect(page.locator("#progress .empty")).to_contain_text("no progress to show")
    else:
        assert page.locator("#parallel-chart canvas").evaluate(LINES) > 0
        expect(page.locator("#progress-chart .main-svg").first).to_be_visible()
    assert trouble == []
    page.context.close()
