"""The answer of a report, and the files beside its page."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import pytest
from diagnosed_samples import add_diagnosis
from rich.console import Console
from run_samples import EPOCHS, add_architectures, add_trial, begin_run, compared_run, full_run

from search import columns
from search.luck import HOLDS, IMAGES, LUCK, SEEDS, UNKNOWN
from search.reporting.build import build_report
from search.reporting.front_files import front_markdown
from search.reporting.record import read_record
from search.reporting.summary import BEST, FAST, KNEE, Summary, summarise
from search.reporting.terminal import print_front
from search.reporting.uncertainty import uncertainty
from search.run_folder import RunFolder

NASTY = "a|b `c` <b>d</b> *e* _f_ [g](h) $i$ \\j\nk"
PLAIN = r"a\|b \`c\` &lt;b&gt;d&lt;/b&gt; \*e\* \_f\_ \[g\](h) \$i\$ \\j k"


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = full_run(tmp_path_factory.mktemp("runs") / "demo")
    add_diagnosis(run)
    build_report(run)
    return run


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = compared_run(tmp_path_factory.mktemp("runs") / "repeated")
    build_report(run)
    return run


def strict_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return content


def summary_of(path: Path, *trials: tuple[int, float]) -> Summary:
    """The answer for a front of completed trials of these profiles and mIoUs."""
    sample = begin_run(path, references=[])
    add_architectures(sample)
    for index, (profile, miou) in enumerate(trials):
        add_trial(sample, index, columns.COMPLETED, profile, epochs=1, miou=miou)
    return summarise(read_record(sample.run))


def test_files_beside_the_page(diagnosed: RunFolder) -> None:
    names = sorted(path.name for path in diagnosed.report.iterdir())
    beside = ["front.csv", "front.md", "front.parquet", "pareto.png", "pareto.svg", "report.json"]
    assert names == sorted([*beside, "index.html"])
    assert (diagnosed.report / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_picture_as_svg_has_its_text_as_text_and_no_date(diagnosed: RunFolder) -> None:
    tree = ElementTree.parse(diagnosed.report / "pareto.svg")
    texts = ["".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"demo", "mIoU", "all <b>background</b> 0.094", "deeplab resnet18"} <= set(texts)
    assert "<dc:date>" not in (diagnosed.report / "pareto.svg").read_text()


def test_answer_without_a_front(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "none")
    assert (summary.sentences, summary.picks) == ([], [])
    assert summary.details == ["No trial has ended or reported an epoch, so there is nothing to compare."]


def test_answer_of_one_model_is_one_sentence(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "one", (0, 0.5))
    (sentence,) = summary.sentences
    assert sentence.startswith("The best model is t0000 (unet small): mIoU 0.500, 5.10 ms on A <processor> of 2 cores")
    assert "within 1 point" not in sentence
    assert summary.details[0] == "The front is this one model."


def test_answer_of_two_models_says_when_the_best_is_the_fastest_near_it(tmp_path: Path) -> None:
    (sentence,) = summary_of(tmp_path / "far", (0, 0.5), (2, 0.6)).sentences
    assert "The best model is t0001" in sentence
    assert "51.9 MB; none within 1 point of it is faster; its weakest class" in sentence
    near = summary_of(tmp_path / "near", (0, 0.5), (2, 0.505))
    assert [pick.roles for pick in near.picks] == [(BEST,), (FAST,)]
    assert near.sentences[1].startswith("The fastest within 1 point of the best is t0000 (unet small): mIoU 0.500")
    assert [pick.export.rpartition("=")[2] for pick in near.picks] == ["best", "fastest"]


def test_answer_of_many_models_names_three_and_their_weakest_classes(diagnosed: RunFolder) -> None:
    record = read_record(diagnosed)
    summary = summarise(record)
    assert [pick.roles for pick in summary.picks] == [(BEST,), (KNEE,), (FAST,)]
    for pick, sentence in zip(summary.picks, summary.sentences, strict=True):
        ious = {name: pick.trial[columns.iou_column(name)] for name in record.class_names}
        weakest = min((value, name) for name, value in ious.items() if not math.isnan(value))
        assert sentence.endswith(f"; its weakest class is {weakest[1]}, IoU {weakest[0]:.2f}.")
        assert pick.export.startswith(f"python -m search.export {diagnosed.argument()} trial=")


def test_a_model_that_is_knee_and_fastest_has_one_sentence(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "both", (0, 0.3), (4, 0.595), (2, 0.6))
    assert [pick.roles for pick in summary.picks] == [(BEST,), (KNEE, FAST)]
    assert summary.sentences[1].startswith("The knee, the front's compromise, is t0001")
    assert ", also the fastest within 1 point of the best: mIoU" in summary.sentences[1]


def test_classes_that_are_equally_weak_are_all_named(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "weak", classes=["x", "y", "z"], references=[])
    nothing: dict[str, Any] = {columns.iou_column("x"): 0.0, columns.iou_column("y"): 0.0, columns.iou_column("z"): 0.9}
    add_trial(sample, 0, columns.COMPLETED, 0, epochs=1, miou=0.3, **nothing)
    (sentence,) = summarise(read_record(sample.run)).sentences
    assert sentence.endswith("; its weakest classes are x and y, IoU 0.00.")
    assert " ms, " in sentence  # no architecture was profiled, so no device is named


def test_markdown_has_the_answer_above_the_table(diagnosed: RunFolder) -> None:
    text = (diagnosed.report / "front.md").read_text(encoding="utf-8")
    answer, table = text.index("The best model is t0002"), text.index("| trial |")
    assert answer < text.index("```sh\npython -m search.export") < table
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in rows[2:]] == ["| t0004", "| t0000", "| t0003", "| t0002", "| t0001"]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert len(set(cells)) == 1
    assert "all &lt;b&gt;background&lt;/b&gt; (0.094)" in text


def test_markdown_takes_names_as_text(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "nasty", classes=[NASTY, "other"], references=[{"label": NASTY, "miou": 0.1}])
    lowest: dict[str, Any] = {columns.iou_column(NASTY): 0.1, columns.iou_column("other"): 0.5}
    add_trial(sample, 0, columns.COMPLETED, 0, epochs=1, miou=0.3, **lowest | {"loss.class_weights": NASTY})
    add_trial(sample, 1, columns.COMPLETED, 2, epochs=1, miou=0.4, **lowest | {"loss.class_weights": "none"})
    record = read_record(sample.run)
    lines = front_markdown(record, summarise(record)).splitlines()
    (row,) = [line for line in lines if line.startswith("| t0000")]
    assert f"| {PLAIN} |" in row
    assert any(line.endswith(f"its weakest class is {PLAIN}, IoU 0.10.") for line in lines)
    assert f"Models that learned nothing reach: {PLAIN} (0.100)." in "\n".join(lines)


def test_markdown_of_a_run_without_a_front(tmp_path: Path) -> None:
    files = build_report(begin_run(tmp_path / "empty").run)
    text = (tmp_path / "empty/report/front.md").read_text()
    assert text == "## empty\n\nNo trial has ended or reported an epoch, so there is nothing to compare.\n"
    assert strict_json(files.page.parent / "report.json")["front"] == []


def test_report_for_programs(diagnosed: RunFolder) -> None:
    content = strict_json(diagnosed.report / "report.json")
    assert content["report_version"] == 1
    assert content["states"] == {"completed": 16, "stopped": 9, "infeasible": 1, "failed": 1, "interrupted": 2}
    assert content["objectives"] == {"miou": "max", "latency_ms": "min", "size_mb": "min"}
    assert set(content["hypervolume"]["reference_point"]) == set(content["objectives"])
    assert [pick["roles"] for pick in content["picks"]] == [["best"], ["knee"], ["fastest"]]
    assert content["picks"][0]["latency_device"] == "A <processor> of 2 cores"
    assert content["picks"][0]["trial"]["trial_id"] == "t0002"
    assert [row["trial_id"] for row in content["front"]] == ["t0004", "t0000", "t0003", "t0002", "t0001"]
    assert {row["miou_interval"]["basis"] for row in content["front"]} == {IMAGES}
    assert content["front"][0]['iou/a "pool"'] is None
    assert content["question"]["title"] == "Which <em>model</em> is worth its milliseconds & why?"


def test_report_for_programs_has_no_value_that_json_has_not(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "odd", references=[{"label": "broken", "miou": math.nan}])
    odd: dict[str, Any] = {columns.VAL_LOSS: math.nan, columns.TRAIN_LOSS: math.inf, columns.LR: -math.inf}
    add_trial(sample, 0, columns.COMPLETED, 0, epochs=1, miou=0.3, **odd)
    add_trial(sample, 1, columns.COMPLETED, 1, epochs=1, miou=math.nan)
    build_report(sample.run)
    content = strict_json(sample.folder.report / "report.json")
    (row,) = content["front"]
    assert (row[columns.VAL_LOSS], row[columns.TRAIN_LOSS], row[columns.LR]) == (None, None, None)
    assert row[columns.STARTED_AT] == "2026-03-01T09:30:00+00:00"
    assert content["data"]["references"] == [{"label": "broken", "miou": None}]


def test_places_of_repeated_configurations(repeated: RunFolder) -> None:
    rows = strict_json(repeated.report / "report.json")["front"]
    assert {row["miou_interval"]["basis"] for row in rows} == {SEEDS}
    assert LUCK in {row["place"] for row in rows}
    for row in rows:
        rivals = [doubt["rival"] for doubt in row["doubts"]]
        assert (row["place"] == LUCK) == bool(rivals)
        assert row["trial_id"] not in rivals


def test_luck_is_said_on_the_page_and_in_the_files(repeated: RunFolder) -> None:
    record = read_record(repeated)
    said = uncertainty(record)
    lucky = [place for place in record.places.values() if place.verdict == LUCK]
    assert [sentence.partition(" ")[0] for sentence in said.doubts] == [place.trial_id for place in lucky]
    assert f"in nothing is it better than {lucky[0].doubts[0].rival}" in said.doubts[0]
    assert "over seeds)." in said.doubts[0]
    assert "configurations off the front" in said.notes[-1]
    page, markdown = (repeated.report / "index.html").read_text(), (repeated.report / "front.md").read_text()
    assert said.doubts[0] in page
    assert f"- {said.doubts[0]}" in markdown
    console = Console(width=200, record=True, file=io.StringIO())
    print_front(record, console)
    printed = console.export_text()
    assert re.search(rf"{lucky[0].trial_id} .* {LUCK}", printed)
    assert said.doubts[0] in printed


def test_images_alone_leave_the_seed_out(diagnosed: RunFolder) -> None:
    notes = " ".join(uncertainty(read_record(diagnosed)).notes)
    assert "1,000 resamples of the 8 validation images (bootstrap). It leaves out what the seed did" in notes
    assert "of configurations off the front that were trained once no noise is known" in notes


def test_what_was_not_assessed_is_said_with_the_way_to_it(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "once")
    for index, (profile, miou) in enumerate([(0, 0.3), (4, 0.5), (2, 0.6)]):
        add_trial(sample, index, columns.COMPLETED, profile, epochs=EPOCHS, miou=miou)
    record = read_record(sample.run)
    assert {place.trial_id: place.verdict for place in record.places.values()} == {
        "t0000": HOLDS,  # the smallest
        "t0001": UNKNOWN,  # the fastest, by a latency of unknown spread; better than t0000 by an mIoU of unknown noise
        "t0002": UNKNOWN,
    }
    said = uncertainty(record)
    assert said.doubts == []
    assert "No model of the front has an interval" in said.notes[0]
    assert said.notes[1].startswith("Whether the place is luck was not assessed for t0001, t0002")
    assert "repeats=3" in said.notes[0]


def test_an_unreadable_diagnosis_is_no_evidence(tmp_path: Path) -> None:
    run = full_run(tmp_path / "broken")
    add_diagnosis(run)
    (run.diagnosis / "diagnosis.json").write_text("no JSON")
    build_report(run)
    assert {place.interval for place in read_record(run).places.values()} == {None}
