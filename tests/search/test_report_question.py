"""What the report says about the question of a space: words, tables, the page and the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from open_page import opened
from playwright.sync_api import Browser, expect
from rich.console import Console
from run_samples import COMPARED, add_trial, begin_run, compared_run, full_run

from search import columns
from search.comparisons import Contrast, Effect, Split, mean_effect
from search.reporting import question_text
from search.reporting.build import build_report
from search.reporting.question import QuestionView, answer_question
from search.reporting.record import read_record
from search.reporting.terminal import print_front
from search.run_folder import RunFolder

WEIGHTS = "<i>median & frequency</i>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return compared_run(tmp_path_factory.mktemp("runs") / "compared")


@pytest.fixture(scope="module")
def answer(run: RunFolder) -> QuestionView:
    return answer_question(read_record(run))


@pytest.fixture(scope="module")
def html(run: RunFolder) -> str:
    return build_report(run).page.read_text()


def effect(mean: float, *interval: float, pairs: int = 6) -> Effect:
    return Effect(mean, pairs, (interval[0], interval[1]) if interval else None)


def contrast(found: Effect | None) -> Contrast:
    return Contrast("true", "false", found, (), (), {}, None)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (effect(0.008, -0.005, 0.021), "+0.8 mIoU points (95 % -0.5 to +2.1) over 6 pairs: no difference shown."),
        (effect(0.008, 0.005, 0.011), "+0.8 mIoU points (95 % +0.5 to +1.1) over 6 pairs: better with true."),
        (effect(-0.01, -0.015, -0.005), "-1.0 mIoU points (95 % -1.5 to -0.5) over 6 pairs: worse with true."),
        (effect(0.008, 0.0001, 0.0159), "+0.80 mIoU points (95 % +0.01 to +1.59) over 6 pairs: better with true."),
        (effect(0.0, 0.0, 0.0), "+0.0 mIoU points (95 % +0.0 to +0.0) over 6 pairs: the same in every pair."),
        (effect(-0.0001, -0.01, 0.01), "+0.0 mIoU points (95 % -1.0 to +1.0) over 6 pairs: no difference shown."),
        (mean_effect([0.02]), "+2.0 mIoU points, one pair: no interval."),
        (None, "no pair."),
    ],
)
def test_a_difference_in_one_sentence(found: Effect | None, sentence: str) -> None:
    assert question_text.contrast("model.aspp", contrast(found)) == f"model.aspp, true against false: {sentence}"


def test_an_average_over_unlike_effects_is_called_that() -> None:
    splits = (Split("loss.name", "dice", effect(-0.2, -0.3, -0.1)), Split("loss.name", "hinge", effect(0.1, 0.0, 0.2)))
    found = dataclasses.replace(contrast(effect(-0.05, -0.1, -0.01)), splits=splits, depends_on=("loss.name",))
    assert question_text.contrast("model.aspp", found) == (
        "model.aspp, true against false: -5.0 mIoU points (95 % -10.0 to -1.0) over 6 pairs: worse with true on "
        "average, but it depends on loss.name (-20.0 at dice, +10.0 at hinge)."
    )


def test_the_clearest_comes_first() -> None:
    shown, larger = effect(0.02, 0.01, 0.03), effect(-0.03, -0.04, -0.02)
    ordered = [larger, shown, effect(0.05, -0.1, 0.2), mean_effect([0.4]), None]
    mixed = [contrast(found) for found in (ordered[2], ordered[4], ordered[1], ordered[3], ordered[0])]
    assert [found.effect for found in sorted(mixed, key=question_text.clarity)] == ordered


def test_the_question_is_answered_in_the_order_asked(answer: QuestionView) -> None:
    assert answer.title == COMPARED["question"]
    assert [factor.name for factor in answer.factors] == [
        "model.aspp",
        "loss.class_weights",
        "model.architecture and model.backbone",
    ]
    said = [re.sub(r"[+-]\d+\.\d", "#", sentence) for sentence in answer.sentences]
    numbers = "# mIoU points (95 % # to #) over"
    joint = "model.architecture and model.backbone, deeplab"
    assert said == [
        f"model.aspp, true against false: {numbers} 12 pairs: no difference shown.",
        f"loss.class_weights, {WEIGHTS} against none: {numbers} 24 pairs: better with {WEIGHTS}.",
        f"{joint} mobilenet_v3_small against unet: {numbers} 12 pairs: better with deeplab mobilenet_v3_small.",
        f"{joint} resnet18 against unet: {numbers} 12 pairs: better with deeplab resnet18.",
    ]


def test_details_name_the_best_and_the_class_off_zero(answer: QuestionView) -> None:
    best, classes, lifted = answer.factors[1].details
    run = r"0\.\d+ ± 0\.\d+ \(t\d+, 3 runs\)"
    assert re.match(rf"The best configuration of each: none {run}; {WEIGHTS} {run}, [+-].* over 3 seeds: ", best)
    assert f"Single classes, {WEIGHTS} against none: vehicle, small gains most, +7.0 points" in classes
    assert lifted == f"Classes that rise from near zero, {WEIGHTS} against none: vehicle, small (0.00 → 0.07)."
    assert "no difference shown for any of 5" in answer.factors[0].details[1]


def cells(factor: Any, table: str) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in getattr(factor, table).rows]


def test_tables_have_levels_differences_and_classes(answer: QuestionView) -> None:
    weights = answer.factors[1]
    levels = cells(weights, "levels")
    assert [row[:3] for row in levels] == [["none", "24", "8"], [WEIGHTS, "24", "8"]]
    assert (levels[0][6], levels[0][-1]) == ("3", "–")
    assert re.fullmatch(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\)", levels[1][-1])
    places = {row[1]: row[2] for row in cells(weights, "differences")}
    assert places["all pairs"] == "24"
    assert (places["model.aspp true"], places["model.architecture unet"]) == ("12", "6")
    assert [row[2][2] for row in weights.heat.rows] == [(0.0, "0.00"), (0.07, "0.07")]
    assert weights.heat.rows[0][2][-1] == (None, "–")
    assert weights.heat.basis == "Means over the 24 settings and seeds that all values share."


def test_notes_name_ranges_and_stopped_trials(answer: QuestionView) -> None:
    assert answer.notes[0] == "optimizer.lr: a range has no levels to compare."
    assert answer.notes[-1].startswith("1 trial was stopped early")


def test_figure_has_every_trial_and_every_interval(answer: QuestionView, html: str) -> None:
    found = re.search(r'id="payload">(.*?)</script>', html, re.DOTALL)
    assert found
    charts = json.loads(found[1])["question"]
    assert charts == [factor.chart for factor in answer.factors]
    aspp = charts[0]
    assert [len(level["trials"]) for level in aspp["levels"]] == [12, 24]
    assert "t0016" not in {trial for level in aspp["levels"] for trial in level["trials"]}
    whole = [bar for bar in aspp["effects"] if bar["whole"]]
    assert [bar["label"] for bar in whole] == ["true against false"]
    assert whole[0]["interval"][0] < 0 < whole[0]["interval"][1]
    assert len(aspp["effects"]) == 5


def unpaired_run(path: Path, compared: list[Any], number: int = 6) -> RunFolder:
    """Random draws, each with its own seed: no two trials are alike but for one thing."""
    content = COMPARED | {"compare": compared}
    sample = begin_run(path, question="")
    with sample.folder.config.open("a") as stream:
        stream.write(f"space_name: random\nspace: {json.dumps(content)}\n")
    for index in range(number):
        values: dict[str, Any] = {
            "training.batch_size": (8, 16)[index % 2],
            "loss.class_weights": "none",
            columns.SEED: index,
        }
        add_trial(sample, index, columns.COMPLETED, 2 + index % 2, epochs=2, **values)
    return sample.run


@pytest.mark.parametrize(
    ("compared", "said"),
    [
        (["model.aspp"], "model.aspp alone"),
        ([], "one of these alone: model.aspp, training.batch_size"),
    ],
)
def test_without_pairs_it_says_so(tmp_path: Path, compared: list[Any], said: str) -> None:
    run = unpaired_run(tmp_path / "random", compared)
    answer = answer_question(read_record(run))
    text = f"No two completed trials differ in {said}; so nothing is paired, and below are means of unlike trials."
    assert answer.sentences[0] == text
    assert re.fullmatch(
        r"The best configuration of each model\.aspp: false \d\.\d+ \(t\d+, 1 run\); true \d\.\d+ \(t\d+, 1 run\)\.",
        answer.sentences[1],
    )
    assert len(answer.sentences) == 1 + len(answer.factors)
    assert answer.title == "What made a difference?"
    factor = answer.factors[0]
    assert (factor.differences.rows, factor.chart["effects"]) == ([], [])
    assert "unlike" in factor.heat.basis
    assert "No two completed trials differ" in build_report(run).page.read_text()


def test_runs_without_a_space_or_trials(tmp_path: Path) -> None:
    bare = answer_question(read_record(full_run(tmp_path / "bare")))
    assert (bare.factors, bare.sentences) == ([], ["The settings of this run hold no space, so nothing is compared."])
    nothing = answer_question(read_record(unpaired_run(tmp_path / "nothing", ["model.aspp"], number=0)))
    assert nothing.factors == []
    assert "there is nothing to compare" in nothing.sentences[0]
    assert nothing.notes == ["model.aspp: the completed trials have one value only."]


def test_terminal_says_so_where_there_is_nothing_to_compare(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_front(read_record(unpaired_run(tmp_path / "nothing", ["model.aspp"], number=0)), console)
    assert isinstance(console.file, io.StringIO)
    assert "there is nothing to compare" in console.file.getvalue()


def test_terminal_prints_the_sentences(run: RunFolder, answer: QuestionView) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_front(read_record(run), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[-5:] == [answer.title, *(f"- {sentence}" for sentence in answer.sentences)]


def test_page_has_words_and_tables_without_scripts(html: str, answer: QuestionView) -> None:
    section = html.split('<section id="question"')[1].split("</section>", maxsplit=1)[0]
    assert '<h2 id="question-title">Does &lt;em&gt;ASPP&lt;/em&gt; help &amp; do weights?</h2>' in section
    assert section.count("<table") == 3 * len(answer.factors)
    assert not re.search(r"<i>|<em>|<script", section)
    assert html.index('id="importance"') < html.index('id="question"') < html.index('id="curves"')


@pytest.mark.browser
@pytest.mark.usefixtures("html")
def test_figure_follows_the_chosen_factor(browser: Browser, run: RunFolder) -> None:
    page, trouble = opened(browser, run, drawn="#level-chart")
    marks = page.locator("#effect-chart .scatterlayer .trace:last-child path.point")
    expect(page.locator("#factor-0")).to_be_visible()
    expect(page.locator("#factor-2")).to_be_hidden()
    page.locator("#factor").select_option("2")
    expect(page.locator("#factor-0")).to_be_hidden()
    expect(page.locator("#factor-2 h3")).to_have_text("model.architecture and model.backbone")
    page.locator("#factor").select_option("0")
    expect(page.locator("#factor-0 h3")).to_have_text("model.aspp")
    expect(marks).to_have_count(5)
    expect(page.locator("figcaption .compared").first).to_have_text("model.aspp")
    expect(page.locator("#effect-chart .annotation-text").first).to_have_text("true against false")
    expect(page.locator("#effect-chart .annotation-text").nth(2)).to_have_text(f"at loss.class_weights {WEIGHTS}")
    page.emulate_media(media="print")
    expect(page.locator("#factor-0")).to_be_visible()
    assert trouble == []
    page.context.close()


@pytest.mark.browser
@pytest.mark.usefixtures("html")
def test_a_trial_of_the_figure_is_selected_everywhere(browser: Browser, run: RunFolder) -> None:
    page, trouble = opened(browser, run, drawn="#level-chart")
    dot = page.locator("#level-chart .scatterlayer .trace").first.locator("path.point").first
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#selected h3")).to_contain_text("deeplab resnet18")
    expect(page.locator("#trials-table tr.selected")).to_have_count(1)
    page.locator("#factor").select_option("2")
    page.locator("#factor-2-levels button.trial").first.click()
    expect(page.locator("#selected h3")).to_contain_text("unet small")
    assert trouble == []
    page.context.close()


@pytest.mark.browser
@pytest.mark.usefixtures("html")
def test_the_section_fits_a_phone(browser: Browser, run: RunFolder) -> None:
    page, trouble = opened(browser, run, width=390, drawn="#level-chart")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    names = page.locator("#effect-chart .annotation-text").evaluate_all(
        "(texts) => texts.map((text) => text.getBoundingClientRect().right)"
    )
    assert max(names) <= 390
    assert trouble == []
    page.context.close()


@pytest.mark.browser
def test_a_run_without_pairs_is_drawn_without_complaint(browser: Browser, tmp_path: Path) -> None:
    run = unpaired_run(tmp_path / "random", ["model.aspp"])
    build_report(run)
    page, trouble = opened(browser, run, drawn="#level-chart")
    expect(page.locator("#effect-chart")).to_contain_text("No pair")
    expect(page.locator("#factor-choice")).to_be_hidden()
    assert trouble == []
    page.context.close()
