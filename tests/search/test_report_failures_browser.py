"""Why a model fails, in a real browser: choosing models, classes and images, and enlarging pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from diagnosed_samples import NAMES, add_diagnosis, reported_run
from open_page import opened
from playwright.sync_api import Browser, Page, expect
from run_samples import CLASSES, add_trial, begin_run, compared_run, full_run

from search import columns
from search.gallery import TRUTH
from search.reporting.build import build_report
from search.reporting.failures import FailuresView, explain_failures
from search.reporting.failures_text import percent
from search.reporting.record import read_record
from search.reporting.summary import summarise
from search.run_folder import RunFolder

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return reported_run(tmp_path_factory.mktemp("runs") / "diagnosed")


@pytest.fixture(scope="module")
def view(run: RunFolder) -> FailuresView:
    record = read_record(run)
    return explain_failures(record, summarise(record))


@pytest.fixture(scope="module")
def reading(browser: Browser, run: RunFolder) -> Iterator[tuple[Page, list[str]]]:
    page, trouble = opened(browser, run)
    yield page, trouble
    page.context.close()


@pytest.fixture
def page(reading: tuple[Page, list[str]]) -> Iterator[Page]:
    page, trouble = reading
    yield page
    assert trouble == []


def test_choosing_a_model_shows_it(page: Page, view: FailuresView) -> None:
    chosen = view.chart["chosen"]
    expect(page.locator("#failure-model")).to_have_value(chosen)
    expect(page.locator("#failure-name")).to_contain_text(f"{chosen} · ")
    expect(page.locator("#failure-name")).to_contain_text("best mIoU")
    other = next(member for member in view.chart["members"] if member["id"] != chosen)
    page.locator("#failure-model").select_option(other["id"])
    expect(page.locator("#failure-name")).to_contain_text(other["id"])
    expect(page.locator("#failure-text")).to_have_text(other["text"])
    expect(page.locator("#confusion-list li")).to_have_text(other["confusions"])
    expect(page.locator("#confusion-table tbody tr")).to_have_count(len(CLASSES))


def test_selecting_elsewhere_chooses_the_model(page: Page, view: FailuresView) -> None:
    first, last = view.chart["members"][0]["id"], view.chart["members"][-1]["id"]
    for trial in (first, last):
        page.locator(f"#front-table tr[data-trial='{trial}'] button.trial").click()
        expect(page.locator("#failure-model")).to_have_value(trial)
    page.locator("#failure-model").select_option(first)
    page.emulate_media(color_scheme="dark")  # what is drawn again does not go back to the selected trial
    expect(page.locator("#failure-model")).to_have_value(first)
    stopped = page.locator("#trials-table tr[data-state='stopped'] button.trial").first
    stopped.click()
    expect(page.locator("#failure-model")).to_have_value(first)
    page.emulate_media(color_scheme="light")


def test_a_cell_is_said_in_words(page: Page, view: FailuresView) -> None:
    member = next(entry for entry in view.chart["members"] if entry["id"] == view.chart["chosen"])
    page.locator("#failure-model").select_option(member["id"])
    page.locator("#confusion-table td[data-truth='0'][data-prediction='1']").hover()
    pixels, total = member["confusion"][0][1], sum(member["confusion"][0])
    sentence = f"{percent(pixels / total)} of background read as building: {pixels:,} of {total:,} pixels."
    expect(page.locator("#confusion-said")).to_have_text(sentence)
    page.locator("#confusion-table td[data-truth='5'][data-prediction='1']").click()
    expect(page.locator("#confusion-said")).to_have_text('No pixel of the truth is a "pool".')


def test_classes_are_sorted_weakest_first_and_otherwise(page: Page, view: FailuresView) -> None:
    names = page.locator("#figures-table tbody th")
    page.locator("#failure-model").select_option(view.chart["members"][0]["id"])
    figures = view.chart["members"][0]["classes"]
    order = sorted(range(len(CLASSES)), key=lambda index: (figures[index]["iou"] is None, figures[index]["iou"] or 0))
    expect(names).to_have_text([CLASSES[index] for index in order])
    page.locator("#figures-table th[data-key=class] button").click()
    by_name = names.all_inner_texts()
    assert sorted(by_name) == sorted(CLASSES)
    assert by_name.index("background") < by_name.index("building") < by_name.index("vehicle, small")
    page.locator("#failure-model").select_option(view.chart["members"][-1]["id"])  # which keeps the order
    expect(names).to_have_text(by_name)
    page.locator("#figures-table th[data-key=iou] button").click()


def test_examples_of_the_weakest_class_and_of_another(page: Page, view: FailuresView) -> None:
    member = next(entry for entry in view.chart["members"] if entry["id"] == view.chart["chosen"])
    page.locator("#failure-model").select_option(member["id"])
    ious = [figures["iou"] for figures in member["classes"]]
    weakest = min((iou, index) for index, iou in enumerate(ious) if iou is not None)[1]
    expect(page.locator("#example-class")).to_have_value(str(weakest))
    page.locator("#example-class").select_option("1")
    pictures = page.locator("#example-list img")
    expect(pictures).to_have_count(6)
    found = view.chart["gallery"]["members"][member["id"]]["examples"]
    best, worst = (
        f"{kind.title()}: building, IoU {iou:.2f} in {name_of(view, image)}"
        for index, kind, image, iou in found
        if index == 1
    )
    expect(page.locator("#example-list .example > p")).to_have_text([best, worst])
    assert (
        pictures.evaluate_all(
            "(images) => Promise.all(images.map(async (image) => { await image.decode(); return image.naturalWidth; }))"
        )
        == [64] * 6
    )
    page.locator("#example-class").select_option(str(len(CLASSES) - 1))
    expect(pictures).to_have_count(0)
    expect(page.locator("#example-none")).to_have_text('No validation image shows a "pool".')


def name_of(view: FailuresView, image: int) -> str:
    return str(view.chart["gallery"]["images"][image]["name"])


def test_the_common_images_are_the_same_for_every_model(page: Page, view: FailuresView) -> None:
    page.locator("#example-kind").select_option("common")
    seen = []
    for member in (view.chart["members"][0], view.chart["members"][-1]):
        page.locator("#failure-model").select_option(member["id"])
        page.locator("#example-class").select_option("0")
        pictures = page.locator("#example-list img")
        expect(pictures).to_have_count(9)
        seen.append(pictures.evaluate_all("(images) => images.map((image) => image.src)"))
        leads = page.locator("#example-list .example > p")
        expect(leads).to_contain_text([f" in {name}" for name in NAMES])
    same = [first == last for first, last in zip(*seen, strict=True)]
    assert same == [True, False, True] * 3
    page.locator("#example-kind").select_option("class")


def test_a_picture_is_enlarged_and_closed_by_keyboard(page: Page, view: FailuresView) -> None:
    page.locator("#failure-model").select_option(view.chart["chosen"])
    button = page.locator("#example-list button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#enlarged")
    expect(dialog).to_be_visible()
    expect(page.locator("#enlarged-text")).to_contain_text(f"{view.chart['chosen']}: prediction of ")
    expect(page.locator("#enlarged-picture")).to_have_css("image-rendering", "pixelated")
    width = page.locator("#enlarged-picture")
    expect(width).to_have_attribute("style", re.compile(r"width: \d{3}"))  # larger than its 64 pixels
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    button.click()
    page.locator("#enlarged-close").click()
    expect(dialog).to_be_hidden()


def test_fits_a_phone_with_many_classes(browser: Browser, tmp_path: Path) -> None:
    names = [f"class {index} {'of a long name' * (index % 3)}" for index in range(26)]
    sample = begin_run(tmp_path / "many", classes=names)
    for index in range(2):
        add_trial(sample, index, columns.COMPLETED, index, epochs=2)
    add_diagnosis(sample.run)
    build_report(sample.run)
    page, trouble = opened(browser, sample.run, width=390)
    expect(page.locator("#confusion-table tbody tr")).to_have_count(26)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#example-list button").first.click()
    expect(page.locator("#enlarged-picture")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Escape")
    assert trouble == []
    page.context.close()


def test_what_is_missing_is_said_in_its_place(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = full_run(tmp_path / "missing")
    gone, *_, left_out = (row[columns.TRIAL_ID] for row in read_record(run).front_rows)
    add_diagnosis(run, missing={gone: "out of memory <i>twice</i>."})
    (run.gallery / TRUTH / "0.png").write_bytes(b"")
    monkeypatch.setattr("search.reporting.page.explain_failures", partial(explain_failures, budget=20_000))
    build_report(run)
    page, trouble = opened(browser, run)
    page.locator("#example-kind").select_option("common")
    expect(page.locator("#example-list .gone")).to_have_text("This picture cannot be shown: gallery/truth/0.png")
    expect(page.locator("#example-list img")).to_have_count(8)
    page.locator("#failure-model").select_option(left_out)
    files = f"gallery/images/0.png, gallery/{left_out}/0.png, gallery/truth/0.png"
    said = f"Left out to keep this page small. In the run's folder: {files}"
    expect(page.locator("#example-list .muted").first).to_have_text(said)
    page.locator("#failure-model").select_option(gone)
    expect(page.locator("#failure-text")).to_contain_text("not diagnosed: out of memory <i>twice</i>.")
    expect(page.locator("#failure-details")).to_be_hidden()
    assert trouble == []
    page.context.close()


def test_a_run_under_another_seed_stands_for_its_configuration(browser: Browser, tmp_path: Path) -> None:
    run = compared_run(tmp_path / "repeated")
    add_diagnosis(run)
    build_report(run)
    assert "the model of the first" in (run.report / "index.html").read_text()
    page, trouble = opened(browser, run)
    members = page.locator("#failure-model option").evaluate_all("(options) => options.map((option) => option.value)")
    trial = next(member for member in members if member != page.locator("#failure-model").input_value())
    page.locator(f"#trials-table tr[data-trial='{trial}-1'] button.trial").click()
    expect(page.locator("#failure-model")).to_have_value(trial)
    assert trouble == []
    page.context.close()
