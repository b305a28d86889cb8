from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packed_page import data_of, unpacked_rows
from run_samples import EPOCHS, START, add_architectures, add_trial, begin_run, full_run

from search import columns
from search.reporting.build import build_report
from search.reporting.record import numbers, read_record
from search.reporting.summary import BEST, FAST, KNEE, summarise
from search.reporting.wording import count, quantity, seconds
from search.results import ResultsError
from search.run_folder import RunError, RunFolder, find_run, latest_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    sample = full_run(tmp_path_factory.mktemp("runs") / "demo")
    build_report(sample)
    return sample


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return (run.report / "index.html").read_text()


class Elements(HTMLParser):
    """The start tags of a page, and its text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_page_loads_nothing(page: str) -> None:
    loading = [attrs.get(name) for _, attrs in Elements(page).tags for name in ("src", "href") if name in attrs]
    assert loading == ["data:,"]
    assert "default-src 'none'" in page


def test_names_are_text(page: str) -> None:
    elements = Elements(page)
    tags = {tag for tag, _ in elements.tags}
    assert not tags & {"em", "img", "b"}
    assert [tag for tag, _ in elements.tags].count("script") == 3
    for text in ("<script>alert(1)</script>", "草地 ünïcode", 'a "pool"', "<img src=x", "Which <em>model</em>"):
        assert text in elements.text


def test_payload_has_every_trial_with_its_state(page: str) -> None:
    trials = unpacked_rows(data_of(page)["trials"])
    states = {trial["id"]: trial["state"] for trial in trials}
    assert len(states) == len(trials) == 29
    assert (states["t0000"], states["t0015"], states["t0024"]) == ("completed", "stopped", "infeasible")
    assert (states["t0025"], states["t0027"], states["t0028"]) == ("failed", "interrupted", "interrupted")
    assert {trial["id"] for trial in trials if trial["front"]} == {"t0000", "t0001", "t0002", "t0003", "t0004"}


def test_missing_values_are_null(page: str) -> None:
    trials = {trial["id"]: trial for trial in unpacked_rows(data_of(page)["trials"])}
    assert trials["t0026"]["miou"] is None
    assert trials["t0024"]["train_time_s"] is None
    assert "NaN" not in page.split('id="payload">')[1].split("</script>", maxsplit=1)[0]


def test_interrupted_trials_have_their_own_configuration(run: RunFolder) -> None:
    record = read_record(run)
    rows = {row[columns.TRIAL_ID]: row for row in record.trials}
    known, unknown = rows["t0027"], rows["t0028"]
    assert (known["model.architecture"], known["model.size"], known["model.backbone"]) == ("unet", "medium", None)
    assert (known[columns.EPOCH], known[columns.EPOCHS]) == (4, EPOCHS)
    assert known[columns.MIOU] == numbers(record.epochs, columns.MIOU)[record.spans["t0027"]].max()
    assert (unknown["model.architecture"], unknown[columns.EPOCH]) == (None, 2)


def test_a_list_of_an_interrupted_trial_is_written_as_in_the_table(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "lists", parameters=["model.architecture", "model.aspp_rates"])
    add_trial(sample, 0, columns.INTERRUPTED, 2, epochs=2)
    (row,) = read_record(sample.run).trials
    assert row["model.aspp_rates"] == "[6, 12, 18]"


def test_answer_names_the_best_the_knee_and_the_fast_one(run: RunFolder) -> None:
    summary = summarise(read_record(run))
    roles = {role: trial for trial, named in summary.roles().items() for role in named}
    assert roles == {BEST: "t0002", KNEE: "t0004", FAST: "t0003"}
    assert "all <b>background</b> (0.094) and untrained model (0.081)" in summary.details[0]
    assert summary.details[1].startswith("29 of 40 planned trials: 16 completed, 9 stopped")


def test_front_files_have_every_column_of_the_front(run: RunFolder) -> None:
    table = pq.read_table(run.report / "front.parquet")
    with (run.report / "front.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert table.column(columns.TRIAL_ID).to_pylist() == ["t0004", "t0000", "t0003", "t0002", "t0001"]
    of_configurations = [columns.REPEATS, columns.MIOU_STD]
    assert list(rows[0]) == table.column_names == [*run.read_trials().column_names, *of_configurations]
    assert [float(row[columns.MIOU]) for row in rows] == table.column(columns.MIOU).to_pylist()
    assert json.loads(rows[0][columns.CONFIG])["model"]["backbone"] == "mobilenet_v3_small"
    assert rows[1]["model.backbone"] == ""


def test_same_run_same_report(run: RunFolder) -> None:
    def digests() -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(run.report.iterdir())]

    before = digests()
    build_report(run)
    assert digests() == before


def test_run_that_drew_nothing(tmp_path: Path) -> None:
    build_report(begin_run(tmp_path / "empty").run)
    text = Elements((tmp_path / "empty/report/index.html").read_text()).text
    assert "No trial has ended or reported an epoch" in text
    assert pq.read_table(tmp_path / "empty/report/front.parquet").num_rows == 0


def test_no_trial_completed(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "stopped")
    add_trial(sample, 0, columns.STOPPED, 0, epochs=2, reason="not among the best")
    add_trial(sample, 1, columns.INTERRUPTED, 1, epochs=1)
    text = Elements(build_report(sample.run).page.read_text()).text
    assert "no front and no best model" in text
    assert "(t0000, stopped at epoch 2)" in text


def test_one_trial_is_best_and_has_no_knee(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "one", references=[])
    add_trial(sample, 0, columns.COMPLETED, 0, epochs=EPOCHS)
    build_report(sample.run)
    summary = summarise(read_record(sample.run))
    assert summary.roles() == {"t0000": (BEST,)}
    assert summary.details == ["The front is this one model.", "1 of 40 planned trials: 1 completed."]


def test_constant_objectives_and_metrics_that_are_not_numbers(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "odd")
    for index in range(3):
        add_trial(sample, index, columns.COMPLETED, 0, epochs=1, miou=0.25)
    add_trial(sample, 3, columns.COMPLETED, 1, epochs=1, miou=math.inf, latency_ms=math.nan, size_mb=None)
    build_report(sample.run)
    record = read_record(sample.run)
    assert record.front.column(columns.TRIAL_ID).to_pylist() == ["t0000", "t0001", "t0002"]
    assert summarise(record).roles() == {"t0000": (BEST,)}


def test_a_best_that_learned_nothing_is_said(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "poor", references=[{"label": "all background", "miou": 0.7}])
    add_trial(sample, 0, columns.COMPLETED, 0, epochs=1, miou=0.69)
    assert "no more than a model that learned nothing" in summarise(read_record(sample.run)).details[0]


def test_a_row_written_twice_counts_once(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "twice")
    add_trial(sample, 0, columns.STOPPED, 0, epochs=2)
    add_trial(sample, 0, columns.COMPLETED, 0, epochs=3, miou=0.4)
    record = read_record(sample.run)
    assert [(row[columns.STATE], row[columns.MIOU]) for row in record.trials] == [("completed", 0.4)]
    assert record.spans == {"t0000": slice(0, 3)}
    assert record.epochs.column(columns.EPOCH).to_pylist() == [1, 2, 3]


def test_epochs_of_trials_side_by_side_lie_together(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "running")
    reported = [("t0001", 1, 0.1), ("t0000", 1, 0.2), ("t0001", 3, 0.3), ("t0001", 2, 0.4), ("t0000", 1, 0.5)]
    for trial, epoch, miou in reported:
        sample.epochs.append({columns.TRIAL_ID: trial, columns.EPOCH: epoch, columns.MIOU: miou})
        sample.epochs.flush()
    record = read_record(sample.run)
    assert record.spans == {"t0001": slice(0, 3), "t0000": slice(3, 4)}
    assert record.epochs.column(columns.MIOU).to_pylist() == [0.1, 0.4, 0.3, 0.5]
    first, second = record.trials
    assert (first[columns.TRIAL_ID], first[columns.STATE], first[columns.MIOU]) == ("t0000", "interrupted", 0.5)
    assert (second[columns.EPOCH], second[columns.BEST_EPOCH], second[columns.MIOU]) == (3, 2, 0.4)


def test_numbers_that_are_missing_or_not_finite_are_nan() -> None:
    table = pa.table({"miou": [0.5, None, math.inf, -math.inf, math.nan], "epoch": [1, 2, 3, 4, 5]})
    assert numbers(table, "miou") == pytest.approx([0.5, *[math.nan] * 4], nan_ok=True)
    assert numbers(table, "epoch").tolist() == [1, 2, 3, 4, 5]
    assert numbers(table, "train_miou") == pytest.approx([math.nan] * 5, nan_ok=True)


@pytest.mark.parametrize(("offset", "way"), [(1, "Update it"), (-1, "Use the version that the run was made with")])
def test_results_of_another_version_are_refused(
    offset: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = columns.SCHEMA_VERSION + offset
    with monkeypatch.context() as other:
        other.setattr(columns, "SCHEMA_VERSION", version)
        sample = begin_run(tmp_path / "other")
        add_trial(sample, 0, columns.STOPPED, 0, epochs=1)
    with pytest.raises(RunError, match=rf"have schema version {version}; .*{way}\."):
        build_report(sample.run)


def test_data_that_lack_a_key_are_refused(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "partial")
    sample.run.write_data({"name": "scenes"})
    with pytest.raises(RunError, match=r"data\.json lacks question"):
        build_report(sample.run)


def test_a_failure_leaves_the_old_report(tmp_path: Path) -> None:
    run = full_run(tmp_path / "broken")
    files = build_report(run)
    before = files.page.read_bytes()
    next((run.results / "trials").glob("*.parquet")).write_bytes(b"not Parquet")
    with pytest.raises(ResultsError):
        build_report(run)
    assert files.page.read_bytes() == before
    assert sorted(run.report.iterdir()) == sorted([files.page, *files.beside])


def test_find_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no run in"):
        latest_run(tmp_path)
    first, second = begin_run(tmp_path / "first").run, begin_run(tmp_path / "second").run
    os.utime(first.config, (START.timestamp(), START.timestamp()))
    assert latest_run(tmp_path) == second
    assert find_run(tmp_path, "first") == first
    with pytest.raises(RunError, match=r"Did you mean 'first'\? There are: first, second"):
        find_run(tmp_path, "frist")
    with pytest.raises(RunError, match="consists of"):
        find_run(tmp_path, "../first")


def report_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "search.report", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_command_writes_the_latest_report_and_nothing_else(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "runs" / "demo")
    shutil.rmtree(tmp_path / "runs" / "demo" / "report")
    done = report_command(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"t0002 +deeplab resnet18 +0\.6", done.stdout)
    assert "Report: runs/demo/report/index.html" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "python -m search.report run=demo<" in (tmp_path / "runs/demo/report/index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=dmo"], "There is no run 'dmo' in runs. Did you mean 'demo'? There are: demo.\n"),
        (["rum=demo"], "There is no setting 'rum'. Did you mean run?\n"),
        (["run=demo"], "runs/demo is not a run that started: data.json cannot be read"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    sample = begin_run(tmp_path / "runs" / "demo")
    sample.run.data.unlink()
    done = report_command(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_five_hundred_trials_stay_small_and_quick(tmp_path: Path) -> None:
    sample = begin_run(tmp_path / "many")
    add_architectures(sample)
    for index in range(500):
        add_trial(sample, index, columns.COMPLETED if index % 3 else columns.STOPPED, index % 5, epochs=9)
    run = sample.run
    began = time.process_time()
    files = build_report(run)
    assert files.page.stat().st_size < 15e6
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (quantity(4.3), "4.30"),
        (quantity(162), "162"),
        (quantity(12345.6), "12,346"),
        (quantity(0.00123), "0.00123"),
        (count(31_040_981), "31.0 M"),
        (count(256_000), "256 k"),
        (count(999), "999"),
        (count(2.34e9), "2.34 G"),
        (seconds(12.34), "12.3 s"),
        (seconds(119.6), "2 min 0 s"),
        (seconds(7260), "2 h 1 min"),
    ],
)
def test_numbers_as_people_write_them(text: str, expected: str) -> None:
    assert text == expected


def test_no_two_scripts_of_the_page_define_the_same_name() -> None:
    """They share one scope, where the later definition would silently win."""
    scripts = sorted(files("search.reporting").iterdir(), key=str)
    texts = [script.read_text() for script in scripts if script.name.endswith(".js")]
    defined = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", "\n".join(texts), re.MULTILINE)
    assert len(defined) > 50
    assert [name for name in set(defined) if defined.count(name) > 1] == []
