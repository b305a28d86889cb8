"""Runs in a storage: copied in an order that a loss of the machine at any moment leaves sound, and fetched again."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from pyarrow import fs
from search_played import Machine, assert_sound

from search.command_line import RunChoice
from search.config import SearchConfig, continued, load_config, save_config
from search.copying import Copier
from search.report import report
from search.run_folder import RunError, RunFolder
from search.session import start
from search.storage import Storage, StorageError, check_storage, patiently
from search.stored_run import begin_sitting, bring, fetch_best, list_runs, own_sitting, read_sitting
from trainers.settings import ConfigError

pytest_plugins = "storage_fixtures"

NAME = "mine"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine whose search with a storage ended."""
    folder = tmp_path_factory.mktemp("once")
    machine = Machine(folder / "runs", str(folder / "storage"))
    machine.search(NAME)
    return machine


@pytest.fixture
def machine(once: Machine, tmp_path: Path) -> Machine:
    """The same, at a place of this test's own."""
    shutil.copytree(once.runs, tmp_path / "runs")
    shutil.copytree(once.place.uri, tmp_path / "storage")
    return Machine(tmp_path / "runs", str(tmp_path / "storage"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:tops3cret@bucket/x",
        "s3://tops3cret@bucket/x",
        "s3://bucket/x?access_key=tops3cret",
        "s3://bucket/x?region=eu&secret_key=tops3cret",
        "abfs://name:tops3cret@account.dfs.core.windows.net/x",
        "gs://bucket/x?access_token=tops3cret",
    ],
)
def test_a_storage_that_holds_a_secret_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(ConfigError, match="storage must hold no secret") as told:
        SearchConfig(space={}, space_name="x", storage=uri)
    assert "tops3cret" not in str(told.value)


@pytest.mark.parametrize("uri", ["runs", "~/runs", "bucket/x", "s3:bucket"])
def test_a_storage_is_a_uri_or_an_absolute_path(uri: str) -> None:
    with pytest.raises(ConfigError, match="storage must be a URI such as s3://bucket/folder, or an absolute path; got"):
        RunChoice(storage=uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://b/x?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http",
        "file:///srv/x",
        "/srv/x",
    ],
)
def test_a_storage_without_secrets_is_fine(uri: str) -> None:
    check_storage(uri)


def test_a_folder_in_a_storage_keeps_the_parameters_of_the_uri() -> None:
    runs = Storage("s3://bucket/runs/?region=eu")
    assert runs.child("a").child("b").uri == "s3://bucket/runs/a/b?region=eu"
    assert runs.child("a").place == "s3://bucket/runs/a"
    assert Storage("/srv/what?").child("a").place == "/srv/what?/a"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_files_come_whole_are_listed_and_go(prefix: str, tmp_path: Path) -> None:
    place = Storage(f"{prefix}{tmp_path}/there")
    assert (place.files(), place.folders(), place.read("a")) == ({}, [], None)
    source = tmp_path / "source"
    source.write_bytes(b"two")
    place.put("a", b"one")
    place.put("deep/er/b", source)
    place.put("a", b"")
    (tmp_path / "there" / ".hidden").write_text("a write that was killed")
    assert {name: info.size for name, info in place.files().items()} == {"a": 0, "deep/er/b": 3}
    assert place.folders() == ["deep"]
    assert place.modified(["a", "none"]).keys() == {"a"}
    assert place.fetch("deep/er/b", tmp_path / "back" / "b")
    assert (tmp_path / "back" / "b").read_bytes() == b"two"
    assert not place.fetch("none", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    place.remove("a")
    place.remove("a")
    assert place.read("a") is None


def test_a_storage_that_cannot_be_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"The storage .*/file cannot be written: .*Not a directory"):
        Storage(str(tmp_path / "file")).put("a/b", b"")
    with pytest.raises(StorageError, match="The storage foo://x cannot be read: Unrecognized filesystem type"):
        Storage("foo://x").files()


def test_a_storage_that_refuses_is_asked_again_for_a_while() -> None:
    pauses: list[float] = []

    def work() -> str:
        if len(pauses) < 3:
            raise StorageError("not now")
        return "done"

    assert patiently(work, 60, pauses.append) == "done"
    assert pauses == [0.01, 0.02, 0.04]
    pauses.clear()
    with pytest.raises(StorageError, match="not now"):
        patiently(work, 0.005, pauses.append)


def test_the_machine_that_wrote_last_is_ahead_of_the_storage(tmp_path: Path, machine: Machine) -> None:
    run = machine.run(NAME)
    (tmp_path / "storage" / NAME / "results" / "trials").rename(tmp_path / "gone")
    assert bring(machine.runs, NAME, machine.place).read_trials().num_rows == run.read_trials().num_rows > 0
    # A kill between the two places that a sitting is written to: the storage has the one before still.
    before = read_sitting(machine.place.child(NAME))
    assert before is not None
    sitting = begin_sitting(run, Storage(str(tmp_path / "elsewhere")).child(NAME))
    assert sitting.follows is None
    begin_sitting(run, machine.place.child(NAME))
    (tmp_path / "storage" / NAME / "sitting.json").write_text(
        (tmp_path / "elsewhere" / NAME / "sitting.json").read_text()
    )
    assert own_sitting(run) != sitting


def test_an_unknown_run_is_told_from_its_neighbours(tmp_path: Path, once: Machine) -> None:
    place = Storage(str(tmp_path / "storage"))
    with pytest.raises(RunError, match=r"There is no run 'first' in .*/storage, and no other\."):
        bring(tmp_path / "runs", "first", place)
    with pytest.raises(
        RunError, match=r"There is no run in .*/storage\. Start one with: python -m search\.run storage="
    ):
        bring(tmp_path / "runs", None, place)
    for index, name in enumerate(("second", "first")):
        shutil.copytree(Path(once.place.uri, NAME), tmp_path / "storage" / name)
        os.utime(tmp_path / "storage" / name / "config.yaml", (2 - index, 2 - index))
    (tmp_path / "storage" / "no_run").mkdir()
    assert list_runs(place) == ["first", "second"]
    with pytest.raises(RunError, match=r"Did you mean 'first'\? There are: first, second\."):
        bring(tmp_path / "runs", "frist", place)
    assert bring(tmp_path / "runs", None, place).name == "second"
    with pytest.raises(RunError, match="A run's name consists of"):
        bring(tmp_path / "runs", "../first", place)
    with pytest.raises(RunError, match=r"There is a run 'first' already in .*/storage\. Continue it with resume=first"):
        start(SearchConfig(space={}, space_name="x", storage=place.uri, run="first", runs=str(tmp_path / "new")))


def test_names_in_a_storage_cannot_lead_out_of_the_runs_folder(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = machine.place.child(NAME)._opened[0].get_file_info

    class Strange:
        type, size, mtime_ns = fs.FileType.File, 1, 1
        path = f"{tmp_path}/storage/{NAME}/results/../../../x"

    class Filesystem:
        def get_file_info(self, selector: Any) -> Any:
            return [*files(selector), Strange()]

    monkeypatch.setattr(Storage, "_opened", (Filesystem(), f"{tmp_path}/storage/{NAME}"))
    with pytest.raises(StorageError, match=r"has a file 'results/\.\./\.\./\.\./x', which is no part of a run"):
        machine.place.child(NAME).files()


def test_resume_takes_the_storage_of_the_run_and_no_place_without_its_checkpoints(
    tmp_path: Path, machine: Machine
) -> None:
    save_config(replace(load_config(machine.run(NAME).config), storage=machine.storage), machine.run(NAME).config)
    wanted: dict[str, Any] = {"space": {}, "space_name": "x", "runs": str(machine.runs), "resume": NAME}
    assert continued(SearchConfig(**wanted), ["resume"]).storage == machine.storage
    for other in (None, str(tmp_path / "elsewhere")):
        with pytest.raises(ConfigError, match=r"storage must be .*/storage, where run 'mine' has its checkpoints"):
            continued(SearchConfig(**wanted, storage=other), ["resume", "storage"])
    fresh = wanted | {"runs": str(tmp_path / "new"), "storage": machine.storage}
    config = continued(SearchConfig(**fresh, num_trials=5), ["resume", "storage", "runs", "num_trials"])
    assert (config.runs, config.num_trials, config.storage) == (str(tmp_path / "new"), 5, machine.storage)
    assert load_config(RunFolder(tmp_path / "new" / NAME).config).num_trials == 6


def test_a_run_of_this_machine_can_be_given_a_storage_later(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "runs", None)
    run = machine.search(NAME, num_trials=3)
    (run.trials / "t0000" / "best.pt").write_bytes(b"model")
    machine.storage = str(tmp_path / "storage")
    machine.resume(NAME, num_trials=8)
    assert_sound(run, tmp_path / "storage" / NAME)
    assert (tmp_path / "storage" / NAME / "trials" / "t0000" / "best.pt").read_bytes() == b"model"


def test_the_report_and_the_model_of_a_run_come_from_its_storage(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "storage" / NAME / "trials" / "t0000").mkdir(exist_ok=True)
    (tmp_path / "storage" / NAME / "trials" / "t0000" / "best.pt").write_bytes(b"model")
    runs = tmp_path / "second"
    report(RunChoice(run=NAME, runs=str(runs), storage=machine.storage))
    assert "Report:" in capsys.readouterr().out
    assert (runs / NAME / "report" / "index.html").exists()
    assert not list((runs / NAME / "trials").glob("*/*.pt"))
    fetch_best(RunFolder(runs / NAME), machine.place.uri, "t0000")
    assert (runs / NAME / "trials" / "t0000" / "best.pt").read_bytes() == b"model"
    fetch_best(RunFolder(runs / NAME), machine.place.uri, "t0001")


def test_files_that_a_table_merges_meanwhile_are_copied_all_the_same(machine: Machine) -> None:
    run = machine.run(NAME)
    with Copier(run, machine.place, print) as copier:
        copier.outbox.set_aside()
        machine.continue_by_hand(run)
        steps = copier.outbox.set_aside()
        tables = [path for name, path in steps if name.startswith("results/") and isinstance(path, Path)]
        assert tables
        for path in run.results.glob("*/*.parquet"):
            path.unlink()
        assert all(path.stat().st_size for path in tables)


def test_the_copy_of_the_study_is_a_whole_database(once: Machine) -> None:
    copied, own = (
        optuna.load_study(study_name="search", storage=f"sqlite:///{path}")
        for path in (Path(once.place.uri, NAME, "optuna.db"), once.run(NAME).storage)
    )
    assert [(trial.number, trial.state, trial.values, trial.params) for trial in copied.trials] == [
        (trial.number, trial.state, trial.values, trial.params) for trial in own.trials
    ]
