"""A whole search that comes to its end: what it leaves on disk, in Optuna's storage, on W&B and in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from on_wandb import assert_on_wandb, place_of
from real_search import SETTINGS, assert_sound, rows, run
from wandb_server import WandbServer

from search import columns
from search.run_folder import RunFolder
from trainers.config import TrialConfig

pytest_plugins = "search_fixtures"

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def finished(workplace: Path, server: WandbServer) -> tuple[RunFolder, str]:  # noqa: ARG001
    """A search of six trials that came to its end, and what it printed."""
    code, printed = run(
        workplace, *SETTINGS, "run=whole", "num_trials=6", "training.epochs=4", "scheduler.name=asha", "scheduler.eta=2"
    )
    assert code == 0
    return RunFolder(workplace / "runs" / "whole"), printed


def test_search_ends_with_sound_results(finished: tuple[RunFolder, str]) -> None:
    run_folder, _ = finished
    assert_sound(run_folder, 6, 4)
    states = [row[columns.STATE] for row in rows(run_folder, "trials")]
    assert columns.COMPLETED in states
    assert columns.STOPPED in states


def test_baseline_is_drawn_first(finished: tuple[RunFolder, str]) -> None:
    first = min(rows(finished[0], "trials"), key=lambda row: row[columns.TRIAL_ID])
    assert (first["model.architecture"], first["model.base_channels"], first["optimizer.lr"]) == ("unet", 4, 5e-3)


def test_row_has_the_metrics_of_the_kept_checkpoint(finished: tuple[RunFolder, str]) -> None:
    run_folder, _ = finished
    for row in rows(run_folder, "trials"):
        folder = run_folder.trials / row[columns.TRIAL_ID]
        kept = sorted(path.name for path in folder.iterdir())
        if row[columns.STATE] == columns.STOPPED:
            assert kept == ["config.yaml", "profile.json"]
            continue
        assert kept == ["best.pt", "config.yaml", "profile.json"]
        best = torch.load(folder / "best.pt", weights_only=True)
        assert best["metrics"]["miou"] == row[columns.MIOU]
        assert best["metrics"]["epoch"] == row[columns.BEST_EPOCH]
        config = TrialConfig.from_dict(json.loads(row[columns.CONFIG]))
        assert TrialConfig.load(folder / "config.yaml") == config
        assert config.optimizer.lr == row["optimizer.lr"]


def test_architectures_are_measured(finished: tuple[RunFolder, str]) -> None:
    measured = rows(finished[0], "architectures")
    assert len(measured) == 3
    for row in measured:
        assert 0 < row[columns.LATENCY_MS] <= row[columns.LATENCY_P95_MS]
        assert row[columns.FEASIBLE]
        assert row[columns.SIZE_MB] * 1e6 >= 4 * row[columns.PARAMS]


def test_the_front_is_measured_again(finished: tuple[RunFolder, str]) -> None:
    run_folder, printed = finished
    front = pq.read_table(run_folder.report / "front.parquet").column(columns.ARCHITECTURE).to_pylist()
    again = rows(run_folder, "latency_checks")
    assert {row[columns.ARCHITECTURE] for row in again} == set(front)
    assert len(again) == len(set(front))
    assert all(0 < row[columns.LATENCY_MS] <= row[columns.LATENCY_P95_MS] for row in again)
    assert f"Latency of the front measured again, {len(again)} architecture" in printed


def test_terminal_shows_front_and_places(finished: tuple[RunFolder, str]) -> None:
    run_folder, printed = finished
    assert "6 trials of space tiny" in printed
    assert "mIoU" in printed
    assert str(run_folder.report / "index.html") in printed
    assert "python -m search.report run=whole" in printed
    for noise in ("ray::", "Tune Status", "WARNING", "wandb:"):
        assert noise not in printed


def test_report_has_reference_lines(finished: tuple[RunFolder, str]) -> None:
    run_folder, _ = finished
    references = {item["label"]: item["miou"] for item in run_folder.read_data()["references"]}
    assert "untrained model" in references
    assert all(0 <= miou < 0.2 for miou in references.values())
    page = (run_folder.report / "index.html").read_text()
    assert all(label in page for label in references)


def test_wandb_has_a_sweep_with_a_run_a_trial(server: WandbServer, finished: tuple[RunFolder, str]) -> None:
    run_folder, printed = finished
    assert_on_wandb(server, run_folder)
    place = place_of(run_folder)
    for row in rows(run_folder, "trials"):
        model = server.runs[place.run_id(row[columns.TRIAL_ID])].config["model"]
        assert model.get("base_channels") == row["model.base_channels"], "left out where its condition did not hold"
    sweep = server.sweeps[str(place.sweep_id)]
    assert sweep.states == ["RUNNING", "FINISHED"]
    lines = printed.splitlines()
    address = f"{server.url}/tester/segmentation-search/sweeps/{sweep.id}"
    assert f"W&B sweep: {address}" in lines, "when W&B has it: trials do not wait for that"
    assert f"W&B:     {address}" in lines


def test_wandb_has_the_front_its_gallery_and_the_report(server: WandbServer, finished: tuple[RunFolder, str]) -> None:
    run_folder, _ = finished
    front = pq.read_table(run_folder.report / "front.parquet").column(columns.TRIAL_ID).to_pylist()
    summary = server.runs[place_of(run_folder).run_id("summary")]
    assert (summary.sweep, summary.job_type, summary.name) == (None, "search", "whole")
    table = json.loads(summary.files[summary.summary["front"]["path"]])
    assert [row[table["columns"].index(columns.TRIAL_ID)] for row in table["data"]] == front
    assert summary.summary["gallery"]["count"] == 6 * len(front)
    (report,) = (item for item in server.artifacts if item.name == "report-whole")
    assert report.files["index.html"] == (run_folder.report / "index.html").read_bytes()
    assert set(report.files) == {path.name for path in run_folder.report.iterdir()}


@pytest.fixture
def wide(workplace: Path) -> list[str]:
    """Settings of a search with more architectures than can be listed."""
    space = """
parameters:
  model.base_channels: {distribution: int_uniform, min: 2, max: 200}
fixed: {model.size: small, training.batch_size: 4, training.precision: fp32}
"""
    (workplace / "conf" / "space" / "wide.yaml").write_text(space)
    return [*(item for item in SETTINGS if item != "space=tiny"), "space=wide"]


@pytest.mark.slow
def test_space_with_too_many_architectures_measures_them_as_drawn(workplace: Path, wide: list[str]) -> None:
    assert run(workplace, *wide, "run=wide", "num_trials=2", "training.epochs=2")[0] == 0
    run_folder = RunFolder(workplace / "runs" / "wide")
    trials = rows(run_folder, "trials")
    assert [row[columns.STATE] for row in trials] == [columns.COMPLETED] * 2
    drawn = {row["model.base_channels"] for row in trials}
    measured = {json.loads(row[columns.ARCHITECTURE])["base_channels"] for row in rows(run_folder, "architectures")}
    assert measured == drawn


@pytest.mark.slow
def test_nothing_feasible_among_what_is_drawn_is_an_error_with_its_record(
    workplace: Path, wide: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.engine.DRAWS_PER_TRIAL", 2)
    code, printed = run(workplace, *wide, "run=none", "constraints.latency_ms=0.001", "tracking.mode=off")
    assert code == 2
    said = " ".join(printed.split())
    assert "after 0 of 20 trials: of its last 2 draws none could be trained. The closest to the constraints is" in said
    refused = rows(RunFolder(workplace / "runs" / "none"), "trials")
    assert [row[columns.STATE] for row in refused] == [columns.INFEASIBLE] * 2
    assert all(row[columns.LATENCY_MS] > 0.001 and "latency_ms" in row[columns.REASON] for row in refused)
