"""Searches whose storage is an S3 server: machines that are lost, an outage, and commands that read from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from s3_server import BUCKET, Door, s3_server

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from real_search import SETTINGS, SPACE, assert_sound, rows, started

from search import columns
from search.run_folder import RunFolder
from search.storage import Storage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

URI = f"s3://{BUCKET}/all/runs"
START = [
    *(*SETTINGS, f"storage={URI}", "tracking.mode=off", "training.epochs=6"),
    *("scheduler.name=asha", "scheduler.eta=2"),
]


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with s3_server() as door:
        yield door


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return new_machine(tmp_path / "first")


def new_machine(folder: Path) -> Path:
    """A folder to start searches in, without any run."""
    (folder / "conf" / "space").mkdir(parents=True)
    (folder / "conf" / "space" / "tiny.yaml").write_text(SPACE)
    return folder


def call(machine: Path, module: str, *settings: str, code: int = 0) -> str:
    """What a command printed, which ended as it should and left no trace of a crash."""
    line = [sys.executable, "-m", f"search.{module}", *settings]
    done = subprocess.run(line, cwd=machine, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "tops3cret" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def stored_epochs(run: Storage) -> set[tuple[str, int]]:
    """(trial, epoch) in the Parquet files of the storage."""
    contents = [run.read(name) for name in run.files() if name.startswith("results/epochs/")]
    found = [row for content in contents if content for row in pq.read_table(pa.BufferReader(content)).to_pylist()]
    return {(row[columns.TRIAL_ID], row[columns.EPOCH]) for row in found}


def histories(run: Storage, folder: Path) -> dict[tuple[str, int], float]:
    """Seconds of each epoch that the checkpoints in the storage remember."""
    found: dict[tuple[str, int], float] = {}
    for name in run.files():
        if name.endswith("last.pt") and run.fetch(name, folder / name):
            history = torch.load(folder / name, weights_only=True)["history"]
            found |= {(name.split("/")[1], row["epoch"]): row["epoch_time_s"] for row in history}
    return found


@pytest.mark.usefixtures("door")
def test_a_search_survives_the_loss_of_two_machines_with_nothing_but_its_storage(machine: Path, tmp_path: Path) -> None:
    run = Storage(URI).child("lost")
    settings = [*START, "run=lost", "num_trials=8"]

    def lost_with(count: int, machine: Path, settings: list[str]) -> dict[tuple[str, int], float]:
        """The machine is lost once that many trials ended and others are under way; what the storage has then."""

        def far_enough(folder: RunFolder) -> bool:
            names = run.files()
            ended = len(rows(folder, "trials")) if (folder.results / "trials").exists() else 0
            return ended >= count and any(name.endswith("last.pt") for name in names) and "optuna.db" in names

        with started(machine, settings, "lost", far_enough) as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        return histories(run, tmp_path / f"lost-{count}")

    remembered = lost_with(1, machine, settings)
    second = new_machine(tmp_path / "second")
    remembered |= lost_with(4, second, [f"storage={URI}", "resume=lost"])
    known = stored_epochs(run)
    third = new_machine(tmp_path / "third")
    printed = call(third, "run", "resume=lost", f"storage={URI}", "num_trials=9", "--config-dir", "conf")
    assert f"Storage: {URI}/lost" in printed
    found = RunFolder(third / "runs" / "lost")
    assert_sound(found, 9, 6)
    epochs = {(row[columns.TRIAL_ID], row[columns.EPOCH]): row for row in rows(found, "epochs")}
    assert known <= epochs.keys()
    # A trial may be stopped earlier than it was by a machine whose last results did not reach the storage.
    again = {key: seconds for key, seconds in remembered.items() if key in epochs}
    assert again, "no trial went on from a checkpoint of a lost machine"
    assert again == {key: epochs[key]["epoch_time_s"] for key in again}, "an epoch in a checkpoint was trained again"
    assert_bounded(run, found)
    assert_commands_read(tmp_path, machine)


def assert_bounded(run: Storage, found: RunFolder) -> None:
    """Of the trials that completed the model is kept, and nothing else."""
    kept = {name for name in run.files() if name.endswith(".pt")}
    completed = [row[columns.TRIAL_ID] for row in rows(found, "trials") if row[columns.STATE] == columns.COMPLETED]
    assert kept == {f"trials/{trial}/best.pt" for trial in completed}
    assert not list(found.trials.glob("*/*.pt"))
    assert "tops3cret" not in "".join((run.read(name) or b"").decode(errors="ignore") for name in run.files())


def assert_commands_read(tmp_path: Path, first: Path) -> None:
    """The report, the model, and a run that another machine went on with."""
    fourth = new_machine(tmp_path / "fourth")
    assert "Report:" in call(fourth, "report", f"storage={URI}")
    assert (fourth / "runs" / "lost" / "report" / "index.html").exists()
    assert "Checked on" in call(fourth, "export", "run=lost", f"storage={URI}", "format=state_dict")
    assert "There are: lost." in call(fourth, "report", "run=last", f"storage={URI}", code=2)
    # The first machine had a run of its own, which the two others went on with.
    printed = call(first, "report", "run=lost", f"storage={URI}")
    assert "Run lost went on elsewhere (sitting 3 on" in printed
    assert rows(RunFolder(first / "runs" / "lost"), "trials") == rows(RunFolder(fourth / "runs" / "lost"), "trials")


def test_a_search_goes_on_while_its_storage_is_out_of_reach(door: Door, machine: Path) -> None:
    run, settings = Storage(URI).child("cut"), [*START, "run=cut", "num_trials=6"]

    def some_ended(folder: RunFolder) -> bool:
        return (folder.results / "trials").exists() and len(rows(folder, "trials")) >= 1

    with started(machine, settings, "cut", some_ended) as process:
        door.shut()
        before = len(rows(RunFolder(machine / "runs" / "cut"), "epochs"))
        said = read_until(process, "cannot be")
        door.open()
        rest, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said + rest
    assert "The search goes on; its results are in" in said
    assert f"The storage {URI} takes results again." in rest
    assert_sound(RunFolder(machine / "runs" / "cut"), 6, 6)
    assert len(stored_epochs(run)) > before
    assert_bounded(run, RunFolder(machine / "runs" / "cut"))


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    said = ""
    while words not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def test_an_end_without_the_storage_is_told_and_made_good(door: Door, machine: Path) -> None:
    settings = [*START, "run=late", "num_trials=2", "training.epochs=2"]

    def reported(folder: RunFolder) -> bool:
        return (folder.report / "index.html").exists()

    with started(machine, settings, "late", reported) as process:
        door.shut()
        printed, _ = process.communicate(timeout=900)
    door.open()
    if "lacks the last" in printed:  # else all of it was there just before
        assert "To copy the rest: python -m search.run resume=late" in printed
    assert process.returncode == 0, printed
    call(machine, "run", "resume=late")
    elsewhere = new_machine(machine.parent / "elsewhere")
    call(elsewhere, "report", "run=late", f"storage={URI}")
    assert rows(RunFolder(elsewhere / "runs" / "late"), "trials") == rows(
        RunFolder(machine / "runs" / "late"), "trials"
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["storage=s3://no-such-bucket/x"], "The storage s3://no-such-bucket/x"),
        (["storage=s3://bucket/x?region=eu&secret_key=hidden"], "storage must hold no secret"),
    ],
)
@pytest.mark.usefixtures("door")
def test_a_storage_that_cannot_be_is_refused_before_anything_runs(
    machine: Path, settings: list[str], told: str
) -> None:
    printed = call(machine, "run", *settings, "tracking.mode=off", code=2)
    assert told in printed
    assert "hidden" not in printed
    assert not (machine / "runs").exists() or not list((machine / "runs").iterdir())
