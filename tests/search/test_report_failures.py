"""Why a model fails: what the section finds out, what it says where something is missing, and how it works."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnosed_samples import NAMES, add_diagnosis, reported_run
from PIL import Image
from run_samples import CLASSES, begin_run, full_run

from search import columns
from search.diagnosis import ModelDiagnosis
from search.gallery import TRUTH
from search.reporting.build import build_report
from search.reporting.failures import FailuresView, explain_failures
from search.reporting.failures_pictures import LONG_SIDE_PX, mask_uri, photo_uri
from search.reporting.failures_text import confusion_sentences, listed, percent, weakest_classes, weakness
from search.reporting.record import Record, read_record
from search.reporting.summary import summarise
from search.run_folder import RunFolder

ROAD, WATER, CAR = "road", "<b>water</b>", "car, small"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return reported_run(tmp_path_factory.mktemp("runs") / "diagnosed")


@pytest.fixture(scope="module")
def record(run: RunFolder) -> Record:
    return read_record(run)


@pytest.fixture(scope="module")
def view(record: Record) -> FailuresView:
    return explain_failures(record, summarise(record))


@pytest.fixture
def own_run(run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy to spoil."""
    shutil.copytree(run.path, tmp_path / "runs" / "own")
    return RunFolder(tmp_path / "runs" / "own")


def explained(run: RunFolder, **options: Any) -> FailuresView:
    record = read_record(run)
    return explain_failures(record, summarise(record), **options)


def model(confusion: list[list[int]], **values: Any) -> ModelDiagnosis:
    matrix = np.array(confusion)
    number = len(matrix)
    unknown = {
        "image_classes": np.zeros((1, number, 3), np.int64),
        "boundary_iou": np.full(number, np.nan),
        "size_iou": np.full((number, 3), np.nan),
        "size_objects": np.zeros((number, 3), np.int64),
    }
    return ModelDiagnosis("t0000", matrix, **(unknown | {name: np.array(value) for name, value in values.items()}))


def test_weakest_classes() -> None:
    assert weakest_classes({0: 0.4, 2: 0.1, 5: 0.3}) == [2]
    assert weakest_classes({0: 0.4, 2: 0.0, 5: 0.0}) == [2, 5]
    assert weakest_classes({}) == []


def test_confusions_are_shares_of_the_true_class() -> None:
    matrix = np.array([[860, 140, 0], [3, 996, 1], [40, 0, 10]])
    assert confusion_sentences((ROAD, WATER, CAR), matrix) == [
        f"80 % of {CAR} read as {ROAD}: 40 pixels, 22 % of all that are wrong.",
        f"14 % of {ROAD} read as {WATER}: 140 pixels, 76 % of all that are wrong.",
    ]  # 0.3 and 0.1 % are not worth a sentence


def test_a_model_in_words() -> None:
    found = model(
        [[860, 140, 0], [0, 1000, 0], [40, 0, 60]],
        boundary_iou=[0.5, 0.6, 0.29],
        size_iou=[[np.nan] * 3, [np.nan] * 3, [0.2, 0.3, 0.9]],
        size_objects=[[0, 0, 0], [0, 0, 0], [12, 7, 4]],
    )
    assert weakness((ROAD, WATER, CAR), found) == (
        f"Weakest class: {CAR}, IoU 0.60. Largest confusion: 40 % of {CAR} read as {ROAD}. "
        "Its contours are far worse than its areas: boundary IoU 0.29."
    )  # 0.2 is no less than half of 0.3, and 4 large objects are too few to say anything


def test_small_objects_are_named_where_they_are_the_harder_ones() -> None:
    sizes = {"size_iou": [[0.2, 0.3, 0.5], [np.nan] * 3], "size_objects": [[1200, 7, 5], [0, 0, 0]]}
    text = weakness((ROAD, WATER), model([[5, 5], [0, 90]], **sizes))
    assert text.endswith("Its small objects are the harder ones: IoU 0.20 over 1,200 small, 0.50 over 5 large ones.")
    assert "contours" not in text


def test_size_is_no_matter_where_the_largest_objects_are_no_better() -> None:
    sizes = {"size_iou": [[0.03, 0.13, 0.05], [np.nan] * 3], "size_objects": [[41, 22, 67], [0, 0, 0]]}
    assert "objects" not in weakness((ROAD, WATER), model([[5, 5], [0, 90]], **sizes))


def test_a_class_that_is_missed_or_seen_where_it_is_not() -> None:
    matrix = [[500, 400, 100], [0, 1000, 0], [0, 2, 8]]
    assert weakness((ROAD, WATER, CAR), model(matrix)).endswith(
        f"40 % of {ROAD} read as {WATER}. Of what it reads as {CAR}, 93 % is something else, above all {ROAD}."
    )
    matrix = [[600, 400, 0], [0, 2000, 0], [20, 35, 45]]
    assert weakness((CAR, WATER, ROAD), model(matrix)).endswith(
        f"40 % of {CAR} read as {WATER}. Of {ROAD}, 55 % is missed and above all read as {WATER}."
    )


@pytest.mark.parametrize(
    ("confusion", "text"),
    [
        ([[0, 9], [0, 9]], f"Weakest class: {ROAD}, IoU 0.00. Largest confusion: 100 % of {ROAD} read as {WATER}."),
        ([[9, 0], [0, 9]], f"Weakest classes: {ROAD} and {WATER}, IoU 1.00 each. No pixel is wrong."),
        ([[0, 0], [0, 9]], f"Weakest class: {WATER}, IoU 1.00. No pixel is wrong."),
        ([[0, 0], [0, 0]], "No pixel of the validation set counts, so there is no IoU."),
    ],
)
def test_the_extremes_in_words(confusion: list[list[int]], text: str) -> None:
    assert weakness((ROAD, WATER), model(confusion)) == text


def test_writing() -> None:
    shares = (0.0, 0.0004, 0.0144, 0.0996, 0.144, 1.0)
    assert [percent(share) for share in shares] == ["0 %", "under 0.1 %", "1.4 %", "10 %", "14 %", "100 %"]
    assert [listed("abcde"[:end]) for end in (1, 2, 3, 5)] == ["a", "a and b", "a, b and c", "a, b, c and 2 more"]


def test_heat_map_marks_the_weakest_class(record: Record, view: FailuresView) -> None:
    assert [row.trial for row in view.heat] == record.front_rows
    for row in view.heat:
        known = [cell for cell in row.cells if cell.value is not None]
        assert min(known, key=lambda cell: cell.value or 0).weakest
        assert sum(cell.weakest for cell in row.cells) == 1
        assert row.weakest == CLASSES[[cell.weakest for cell in row.cells].index(True)]
        assert (row.cells[-1].value, row.cells[-1].text) == (None, "–")


def test_the_best_is_chosen_first(record: Record, view: FailuresView) -> None:
    best = max(record.front_rows, key=lambda row: row[columns.MIOU])
    assert view.chart["chosen"] == best[columns.TRIAL_ID]
    assert [member["id"] for member in view.chart["members"]] == [row[columns.TRIAL_ID] for row in record.front_rows]


def test_every_picture_is_there_once(view: FailuresView) -> None:
    gallery = view.chart["gallery"]
    assert len(gallery["pictures"]) == len(set(gallery["pictures"]))
    for member in gallery["members"].values():
        assert member["predictions"].keys() == set(member["wanted"])
        assert {image for _, _, image, _ in member["examples"]} | set(gallery["common"]) == set(member["wanted"])
    used = [entry[kind] for entry in gallery["images"].values() for kind in ("image", "truth")]
    used += [place for member in gallery["members"].values() for place in member["predictions"].values()]
    assert set(used) == set(range(len(gallery["pictures"])))
    assert view.notes == []


def test_the_budget_goes_to_the_named_models_first(run: RunFolder, record: Record, view: FailuresView) -> None:
    whole = sum(map(len, view.chart["gallery"]["pictures"]))
    named = summarise(record).picks[0].trial[columns.TRIAL_ID]
    last = next(member["id"] for member in reversed(view.chart["members"]) if not member["roles"])
    for budget in (whole // 2, whole - 1):
        cut = explained(run, budget=budget)
        gallery = cut.chart["gallery"]
        assert 0.5 * budget < sum(map(len, gallery["pictures"])) <= budget
        assert gallery["members"][named]["predictions"].keys() == set(gallery["members"][named]["wanted"])
        assert len(gallery["members"][last]["predictions"]) < len(gallery["members"][last]["wanted"])
        [note] = cut.notes
        assert last in note
        assert named not in note
        assert str(run.gallery) in note
    assert explained(run, budget=whole).notes == []
    nothing = explained(run, budget=0)
    assert nothing.chart["gallery"]["pictures"] == []
    assert all(member["id"] in nothing.notes[0] for member in nothing.chart["members"])


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_are_shrunk_and_masks_keep_their_colours(tmp_path: Path) -> None:
    mask = Image.fromarray(np.repeat(np.array([[0, 5, 255]], np.uint8), 300, axis=0).repeat(200, axis=1))
    mask.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    mask.save(tmp_path / "mask.png")
    shrunk = decoded(mask_uri(tmp_path / "mask.png"))
    assert shrunk.size == (LONG_SIDE_PX, LONG_SIDE_PX // 2)
    colors = shrunk.convert("RGB").getcolors()
    assert colors is not None
    assert {color for _, color in colors} == {(0, 255, 7), (5, 250, 7), (255, 0, 7)}
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "photo.png")
    photo = decoded(photo_uri(tmp_path / "photo.png"))
    assert photo.size == (30, 20)
    assert np.allclose(np.asarray(photo.convert("RGB")), (200, 10, 10), atol=12)


def test_a_run_without_a_diagnosis_says_so(tmp_path: Path) -> None:
    run = full_run(tmp_path / "plain")
    view = explained(run)
    assert view.heat
    assert view.chart == {"members": []}
    [note] = view.notes
    assert "no diagnosis" in note
    assert f"python -m search.run {run.argument('resume')}" in note
    section = build_report(run).page.read_text().split('<section id="failures"')[1].split("</section>")[0]
    assert 'id="class-table"' in section
    assert "no diagnosis" in section
    assert "failure-model" not in section


def test_a_run_without_a_front_says_so(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "empty").run
    assert explained(run) == FailuresView([], [], [], "", {"members": []})
    assert "There is no front, so there is no model to look into." in build_report(run).page.read_text()


def spoil_json(run: RunFolder) -> None:
    (run.diagnosis / "diagnosis.json").write_text("{")


def spoil_table(run: RunFolder) -> None:
    (run.diagnosis / "confusion.parquet").write_bytes(b"PAR1")


def rename_classes(run: RunFolder) -> None:
    content = run.read_data()
    content["classes"][0]["name"] = "sky"
    run.write_data(content)


@pytest.mark.parametrize("spoil", [spoil_json, spoil_table, rename_classes])
def test_a_diagnosis_that_cannot_be_used_says_so(own_run: RunFolder, spoil: Callable[[RunFolder], None]) -> None:
    spoil(own_run)
    [note] = explained(own_run).notes
    assert str(own_run.diagnosis) in note
    assert note.count("python -m search.run resume=own") == 1
    assert note.split(":")[0] in build_report(own_run).page.read_text().replace("&#39;", "'")


def test_without_a_gallery_the_figures_stay(own_run: RunFolder) -> None:
    shutil.rmtree(own_run.gallery)
    view = explained(own_run)
    assert view.chart["gallery"] is None
    assert "no gallery" in view.notes[0]
    assert all(member["confusion"] for member in view.chart["members"])
    (own_run.gallery).mkdir()
    (own_run.gallery / "gallery.json").write_text("[]")
    assert str(own_run.gallery) in explained(own_run).notes[0]


def test_a_gallery_of_other_images_is_not_shown(own_run: RunFolder) -> None:
    index = own_run.gallery / "gallery.json"
    content = json.loads(index.read_text())
    content["images"][0]["name"] = "another.png"
    index.write_text(json.dumps(content))
    view = explained(own_run)
    assert view.chart["gallery"] is None
    assert "is of other images" in view.notes[0]


def test_models_without_a_diagnosis_have_their_reason(tmp_path: Path) -> None:
    run = full_run(tmp_path / "missing")
    front = read_record(run).front_rows
    best = max(front, key=lambda row: row[columns.MIOU])[columns.TRIAL_ID]
    add_diagnosis(run, missing={best: "best.pt <b>is</b> gone."})
    view = explained(run)
    absent = next(member for member in view.chart["members"] if member["id"] == best)
    assert absent["reason"].startswith("This model was not diagnosed: best.pt <b>is</b> gone. ")
    assert view.chart["chosen"] == next(row[columns.TRIAL_ID] for row in front if row[columns.TRIAL_ID] != best)
    assert next(entry.text for entry in view.weaknesses if entry.trial == best) == absent["reason"]


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"cut"])
def test_a_picture_that_is_gone_or_broken_is_said(own_run: RunFolder, content: bytes | None) -> None:
    file = own_run.gallery / TRUTH / "1.png"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:80] if content == b"cut" else content)
    view = explained(own_run)
    assert view.chart["gallery"]["images"][1]["truth"] is None
    [note] = view.notes
    assert note.startswith(f"A picture of the gallery cannot be shown: {file} (")
    assert "python -m search.run resume=own" in note


def test_names_are_text(run: RunFolder) -> None:
    html = (run.report / "index.html").read_text()
    section = html.split('<section id="failures"')[1].split("</section>")[0]
    assert not re.search(r"<script|<i>|<em>", section)
    payload = html.split('id="payload"')[1].split("</script>")[0]
    assert json.loads(payload.partition(">")[2])["failures"]["gallery"]["images"]["0"]["name"] == NAMES[0]
