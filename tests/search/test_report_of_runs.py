"""One report of several runs: ``python -m search.report run=a,b``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from diagnosed_samples import add_diagnosis
from open_page import opened
from playwright.sync_api import Browser, expect
from run_samples import CLASSES, EPOCHS, add_architectures, add_trial, begin_run, full_run

from search import columns
from search.reporting.merged import RUN, merge
from search.reporting.progress_view import show_progress
from search.reporting.record import Record, read_record
from search.reporting.summary import summarise
from search.reporting.tables import runs_table
from search.run_folder import RunError, RunFolder


def small_run(path: Path, tops: dict[int, float], **data: Any) -> RunFolder:
    """Completed trials by profile and the mIoU that they reached."""
    sample = begin_run(path, **data)
    add_architectures(sample)
    for index, (profile, top) in enumerate(tops.items()):
        add_trial(sample, index, columns.COMPLETED, profile, epochs=EPOCHS, top=top, miou=top)
    return sample.run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """One that is best at the large end, and one at the small end; each with a diagnosis."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    large = small_run(folder / "large", {0: 0.40, 2: 0.66, 1: 0.5})
    small = small_run(folder / "small", {0: 0.45, 2: 0.60, 4: 0.52})
    for run in (large, small):
        add_diagnosis(run)
    return large, small


@pytest.fixture(scope="module")
def merged(runs: tuple[RunFolder, RunFolder]) -> Record:
    return merge(list(map(read_record, runs)))


def test_one_front_over_all_trials(merged: Record) -> None:
    ids = [row[columns.TRIAL_ID] for row in merged.front_rows]
    assert ids == ["small/t0002", "small/t0000", "large/t0001"]
    assert [row[RUN] for row in merged.trials] == ["large"] * 3 + ["small"] * 3
    assert merged.varying[0] == RUN


def test_hypervolume_is_that_of_the_front_from_one_corner(merged: Record) -> None:
    assert merged.reference_point[columns.LATENCY_MS] == pytest.approx(62.0 * 1.1)
    values = [[cell.value for cell in row.cells] for row in runs_table(merged).rows]
    assert [row[0] for row in values] == ["large", "small"]
    hypervolumes = [float(row[5] or 0) for row in values]
    assert max(hypervolumes) < merged.hypervolume < sum(hypervolumes)
    assert [row[6] for row in values] == [1, 2]


def test_epochs_stay_with_their_trials(merged: Record) -> None:
    rows = merged.epochs[merged.spans["small/t0001"]].to_pylist()
    assert [row[columns.EPOCH] for row in rows] == list(range(1, EPOCHS + 1))
    assert {row[columns.TRIAL_ID] for row in rows} == {"small/t0001"}


def test_picks_are_exported_from_their_own_run(merged: Record) -> None:
    pick = summarise(merged).picks[0]
    assert pick.trial[columns.TRIAL_ID] == "large/t0001"
    assert pick.export.startswith("python -m search.export run=large runs=")
    assert pick.export.endswith(" trial=t0001")


def test_models_are_diagnosed_under_their_new_names(merged: Record, runs: tuple[RunFolder, RunFolder]) -> None:
    assert merged.diagnosis is not None
    assert {row[columns.TRIAL_ID] for row in merged.front_rows} <= merged.diagnosis.members.keys()
    gallery = merged.read_gallery()
    assert gallery is not None
    view = gallery.view("small/t0002", next(iter(gallery.names)))
    assert view is not None
    assert runs[1].gallery in view.prediction.parents


def test_progress_compares_at_the_same_time(merged: Record) -> None:
    view = show_progress(merged)
    assert view.chart is not None
    assert [series["name"] for series in view.chart["series"]] == ["large", "small"]
    assert "when the shortest run ended: " in view.sentences[0]


def test_a_parameter_that_one_run_fixed_has_its_value_there(runs: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    other = small_run(tmp_path / "runs" / "narrow", {0: 0.3}, parameters=["model.architecture", "optimizer.lr"])
    merged = merge([read_record(runs[0]), read_record(other)])
    (row,) = (row for row in merged.trials if row[RUN] == "narrow")
    assert row["model.base_channels"] == 16
    assert row["model.backbone"] is None, "UNet reads none"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"classes": CLASSES[:3]}, "different classes"),
        ({"num_val": 3}, "different numbers of validation images: large has 160, odd 3"),
        ({"name": "camvid"}, "different data sets: large has scenes, odd camvid"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    runs: tuple[RunFolder, RunFolder], tmp_path: Path, data: dict[str, Any], reason: str
) -> None:
    odd = small_run(tmp_path / "runs" / "odd", {0: 0.3}, **data)
    with pytest.raises(RunError, match=reason):
        merge([read_record(runs[0]), read_record(odd)])


def test_runs_without_a_trial_have_no_front(tmp_path: Path) -> None:
    empty = [begin_run(tmp_path / "runs" / name).run for name in ("a", "b")]
    merged = merge(list(map(read_record, empty)))
    assert merged.front_rows == []
    assert merged.hypervolume == 0
    assert show_progress(merged).chart is None


def test_the_command_writes_one_page(browser: Browser, runs: tuple[RunFolder, RunFolder]) -> None:
    folder = runs[0].path.parent
    command = [sys.executable, "-m", "search.report", "run=large,small", f"runs={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    written = RunFolder(folder / "large+small")
    assert pq.read_table(written.report / "front.parquet").column(RUN).to_pylist() == ["small", "small", "large"]
    assert json.loads((written.report / "report.json").read_text())["run"]["name"] == "large+small"
    page, trouble = opened(browser, written)
    expect(page.locator("#runs-table tbody tr")).to_have_count(2)
    page.locator("#front-table button.trial").first.click()
    expect(page.locator("#selected")).to_contain_text("small/t0002")
    page.context.close()
    assert trouble == []


def test_the_command_says_which_run_is_not_there(runs: tuple[RunFolder, RunFolder]) -> None:
    command = [sys.executable, "-m", "search.report", "run=large,smal", f"runs={runs[0].path.parent}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "There is no run 'smal'" in done.stderr
    assert "Did you mean 'small'?" in done.stderr


def test_a_run_is_not_compared_with_itself(runs: tuple[RunFolder, RunFolder]) -> None:
    with pytest.raises(RunError, match="names large more than once"):
        merge([read_record(runs[0])] * 2)


def test_full_runs_with_every_state_merge(tmp_path: Path) -> None:
    merged = merge([read_record(full_run(tmp_path / "runs" / name)) for name in ("a", "b")])
    assert len(merged.trials) == 58
    states = {row[columns.STATE] for row in merged.trials}
    assert states == set(columns.STATES)
