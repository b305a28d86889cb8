"""A whole search through its command: real Ray, Optuna, Parquet and W&B client, on the built-in data set."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from on_wandb import assert_on_wandb, place_of
from wandb_server import WandbServer

from search import columns
from search.run import main
from search.run_folder import RunFolder
from trainers.config import TrialConfig

SPACE = """\
question: Does a tiny UNet beat a tiny DeepLab?
parameters:
  model.architecture: {values: [unet, deeplab]}
  model.base_channels: {values: [2, 4], when: {model.architecture: unet}}
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}
baselines:
  - {model.architecture: unet, model.base_channels: 4, optimizer.lr: 5.0e-3}
fixed: {model.size: small, model.backbone: mobilenet_v3_small, model.aspp: false, model.decoder_channels: 8,
        training.batch_size: 4, training.precision: fp32}
"""
SETTINGS = ["space=tiny", "data.height=32", "data.width=32", "data.max_images=12"]


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    """W&B, as far as every process started here knows."""
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "conf" / "space").mkdir(parents=True)
    (folder / "conf" / "space" / "tiny.yaml").write_text(SPACE)
    return folder


def command(*settings: str) -> list[str]:
    return [sys.executable, "-m", "search.run", "--config-dir", "conf", *settings]


def run(workplace: Path, *settings: str) -> tuple[int, str]:
    """Exit code and output of a search that nobody kills: in this process, which has imported what takes so long."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(workplace)
        patch.setattr(sys, "argv", ["search.run", "--config-dir", "conf", *settings])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.getvalue()


@pytest.fixture(scope="module")
def finished(workplace: Path, server: WandbServer) -> tuple[RunFolder, str]:  # noqa: ARG001
    """A search of six trials that came to its end, and what it printed."""
    code, printed = run(workplace, *SETTINGS, "run=whole", "num_trials=6", "training.epochs=4", "scheduler.eta=2")
    assert code == 0
    return RunFolder(workplace / "runs" / "whole"), printed


def rows(run_folder: RunFolder, table: str) -> list[dict[str, Any]]:
    """Read as a stranger does: pyarrow on the folder, none of our code."""
    found: list[dict[str, Any]] = ds.dataset(run_folder.results / table, format="parquet").to_table().to_pylist()
    return found


def assert_sound(run_folder: RunFolder, num_trials: int, epochs: int) -> None:
    """Every trial exactly once, no (trial, epoch) twice, no gap, and Optuna agrees."""
    trials = rows(run_folder, "trials")
    assert len(trials) == len({row[columns.TRIAL_ID] for row in trials}) == num_trials
    assert {row[columns.STATE] for row in trials} <= {columns.COMPLETED, columns.STOPPED}
    reported: dict[str, list[int]] = {}
    for row in rows(run_folder, "epochs"):
        reported.setdefault(row[columns.TRIAL_ID], []).append(row[columns.EPOCH])
    for row in trials:
        expected = epochs if row[columns.STATE] == columns.COMPLETED else row[columns.EPOCH]
        assert sorted(reported[row[columns.TRIAL_ID]]) == list(range(1, expected + 1))
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{run_folder.storage}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * num_trials
    completed = [row for row in trials if row[columns.STATE] == columns.COMPLETED]
    feasible = [trial for trial in study.trials if all(value <= 0 for value in trial.constraints.values())]
    assert len(feasible) == len(completed)


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
    assert lines.index(f"W&B sweep: {address}") < next(i for i, line in enumerate(lines) if line.startswith("[1/6"))
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


START = [*SETTINGS, "run=broken", "num_trials=5", "training.epochs=6", "scheduler.eta=2"]


@contextmanager
def started(
    workplace: Path, settings: list[str], name: str, ready: Callable[[RunFolder], bool]
) -> Iterator[subprocess.Popen[str]]:
    """A search under way, as soon as ``ready`` says so of its folder."""
    process = subprocess.Popen(
        command(*settings), cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    run_folder = RunFolder(workplace / "runs" / name)
    deadline = time.monotonic() + 180
    try:
        while not ready(run_folder):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the search never got that far"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def some_trial_ended(run_folder: RunFolder) -> bool:
    return any((run_folder.results / "trials").glob("*.parquet")) and any(run_folder.trials.glob("*/last.pt"))


def ended(run_folder: RunFolder) -> dict[str, dict[str, Any]]:
    return {row[columns.TRIAL_ID]: row for row in rows(run_folder, "trials")}


def reported(run_folder: RunFolder) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row[columns.TRIAL_ID], row[columns.EPOCH]): row for row in rows(run_folder, "epochs")}


@pytest.fixture(scope="module")
def killed(workplace: Path, server: WandbServer) -> RunFolder:  # noqa: ARG001
    """A search whose driver was killed once a trial had ended and another was under way."""
    with started(workplace, START, "broken", some_trial_ended) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return RunFolder(workplace / "runs" / "broken")


def test_a_search_that_is_killed_and_interrupted_goes_on_where_it_was(
    workplace: Path, server: WandbServer, killed: RunFolder
) -> None:
    trials, epochs = ended(killed), reported(killed)
    assert trials

    def more_ended(run_folder: RunFolder) -> bool:
        return len(ended(run_folder)) > len(trials)

    with started(workplace, ["resume=broken"], "broken", more_ended) as process:
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert "python -m search.run resume=broken" in printed
    assert columns.INTERRUPTED in [row[columns.STATE] for row in rows(killed, "trials")]
    assert (killed.report / "index.html").exists()
    assert server.sweeps[str(place_of(killed).sweep_id)].state == "PAUSED"

    assert run(workplace, "resume=broken")[0] == 0
    assert_sound(killed, 5, 6)
    assert {trial_id: ended(killed)[trial_id] for trial_id in trials} == trials
    assert {key: reported(killed)[key] for key in epochs} == epochs
    assert_on_wandb(server, killed)


@pytest.mark.slow
def test_killed_trial_process_goes_on_from_its_checkpoint(workplace: Path) -> None:
    settings = [item.replace("broken", "bereft") for item in START]
    with started(workplace, settings, "bereft", lambda folder: any(folder.trials.glob("*/last.pt"))) as process:
        found = subprocess.run(["pgrep", "-f", "ray::TrialActor"], capture_output=True, text=True, check=True)
        actors = [int(pid) for pid in found.stdout.split() if descends(int(pid), process.pid)]
        os.kill(actors[0], signal.SIGKILL)
        printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert_sound(RunFolder(workplace / "runs" / "bereft"), 5, 6)


def descends(pid: int, ancestor: int) -> bool:
    """Whether ``ancestor`` is among the parents of ``pid``."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.slow
def test_space_with_too_many_architectures_measures_them_as_drawn(workplace: Path) -> None:
    wide = """
parameters:
  model.base_channels: {distribution: int_uniform, min: 2, max: 200}
fixed: {model.size: small, training.batch_size: 4, training.precision: fp32}
"""
    (workplace / "conf" / "space" / "wide.yaml").write_text(wide)
    settings = [item for item in SETTINGS if item != "space=tiny"]
    assert run(workplace, *settings, "space=wide", "run=wide", "num_trials=2", "training.epochs=2")[0] == 0
    run_folder = RunFolder(workplace / "runs" / "wide")
    trials = rows(run_folder, "trials")
    assert [row[columns.STATE] for row in trials] == [columns.COMPLETED] * 2
    drawn = {row["model.base_channels"] for row in trials}
    measured = {json.loads(row[columns.ARCHITECTURE])["base_channels"] for row in rows(run_folder, "architectures")}
    assert measured == drawn


@pytest.fixture(scope="module")
def troubled(workplace: Path) -> RunFolder:
    """A search under two seeds whose first trial cannot be trained, and which may not train every architecture."""
    rates = "optimizer.lr: {values: [1.0e-3, 5.0e-3, 1.0e-2, 1.0e30]}"
    wild = re.sub("optimizer.lr: {.*}", rates, SPACE).replace("lr: 5.0e-3", "lr: 1.0e30")
    (workplace / "conf" / "space" / "wild.yaml").write_text(wild)
    settings = [item for item in SETTINGS if item != "space=tiny"]
    code, _ = run(
        workplace, *settings, "space=wild", "run=wild", "num_trials=4", "repeats=2", "training.epochs=2",
        "optimizer.name=sgd", "constraints.params=100000", "sampler.name=random", "tracking.mode=offline",
    )  # fmt: skip
    assert code == 0
    return RunFolder(workplace / "runs" / "wild")


def test_failed_trial_does_not_end_the_search(troubled: RunFolder) -> None:
    trials = {row[columns.TRIAL_ID]: row for row in rows(troubled, "trials")}
    assert trials["t0000"][columns.STATE] == columns.FAILED
    assert "loss became" in trials["t0000"][columns.REASON]
    assert "Traceback" in (troubled.trials / "t0000" / "error.txt").read_text()
    tried = {row[columns.CONFIGURATION] for row in trials.values() if row[columns.STATE] != columns.INFEASIBLE}
    assert len(tried) == 4


def test_constraint_keeps_architectures_from_training(troubled: RunFolder) -> None:
    trials = rows(troubled, "trials")
    refused = [row for row in trials if row[columns.STATE] == columns.INFEASIBLE]
    assert refused
    assert all(row[columns.EPOCH] == 0 and "params" in row[columns.REASON] for row in refused)
    trained = [row for row in trials if row[columns.STATE] == columns.COMPLETED]
    assert trained
    assert all(row[columns.PARAMS] <= 100_000 for row in trained)


def test_offline_leaves_for_wandb_what_sync_then_sends(
    workplace: Path, server: WandbServer, troubled: RunFolder
) -> None:
    trials = {row[columns.TRIAL_ID]: row for row in rows(troubled, "trials")}
    files = {
        file.stem.partition("-")[2].partition("-")[2]: file for file in troubled.wandb.glob("offline-run-*/*.wandb")
    }
    assert files.keys() == {*trials, "summary"}
    records = inspect_offline(files["t0000"], workplace)
    assert columns.FAILED in json.dumps(records)
    command = [sys.executable, "-m", "search.sync", "run=wild"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(trials)} trials of run wild are on W&B" in done.stdout
    assert_on_wandb(server, troubled)


def inspect_offline(file: Path, workplace: Path) -> list[dict[str, Any]]:
    """The records of an offline run, decoded by wandb's own command."""
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent))
    assert wandb is not None
    done = subprocess.run(
        [wandb, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, cwd=workplace, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_only_completed_trials_are_repeated_under_the_next_seed(troubled: RunFolder) -> None:
    seeds: dict[str, list[int]] = {}
    for row in rows(troubled, "trials"):
        seeds.setdefault(row[columns.CONFIGURATION], []).append(row[columns.SEED])
    firsts = {row[columns.TRIAL_ID]: row[columns.STATE] for row in rows(troubled, "trials") if not row[columns.REPEAT]}
    assert columns.COMPLETED in firsts.values()
    for configuration, state in firsts.items():
        assert sorted(seeds[configuration]) == ([0, 1] if state == columns.COMPLETED else [0])
