"""The folder of a run: names, the hold on it, its small files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.files import write_text_atomically
from search.run_folder import RunError, RunFolder, find_run, latest_run

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from search.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["quickstart-20260101-120000", "a", "A.b_c-9", "x" * 100])
def test_a_plain_name_is_a_folder(name: str, tmp_path: Path) -> None:
    run = RunFolder.named(tmp_path, name)
    assert (run.path, run.name) == (tmp_path / name, name)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/a", ".hidden", "-x", "a b", "a\n", "x" * 101, "ü"])
def test_any_other_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="A run's name consists of letters") as told:
        RunFolder.named(tmp_path, name)
    assert repr(name) in str(told.value)


def test_the_latest_run_is_the_one_started_last(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"There is no run in .* Start one with: python -m search\.run"):
        latest_run(tmp_path)
    for index, name in enumerate(("b", "c", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
        os.utime(tmp_path / name / "config.yaml", (index, index))
    (tmp_path / "no_run").mkdir()
    assert latest_run(tmp_path).name == "a"


def test_one_process_at_a_time_holds_a_run_and_a_kill_frees_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    line = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="'run' is being run by another process"), run.held():
            pass
        holder.kill()
    with run.held():
        pass


def test_a_hold_ends_with_its_block_even_when_the_block_fails(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ZeroDivisionError) as kept, run.held():
        1 / 0  # noqa: B018
    line = [sys.executable, "-c", HOLDER, str(run.path)]
    done = subprocess.run(line, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("held\n", 0)
    assert kept.value is not None  # alive until here, and with it what the block's frames held


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match=r"runs/mine cannot be written: Not a directory. Set runs=<folder>"):
        RunFolder.named(tmp_path / "runs", "mine").held().__enter__()


def test_what_is_told_about_the_data_comes_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(RunError, match=r"is not a run that started: data\.json cannot be read"):
        run.read_data()
    run.write_data({"name": "scenes", "classes": [{"name": "Straße"}]})
    assert run.read_data() == {"name": "scenes", "classes": [{"name": "Straße"}]}
    run.data.write_text("{")
    with pytest.raises(RunError, match=r"data\.json cannot be read"):
        run.read_data()


def test_the_tables_of_a_run_that_has_none_are_empty(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert [table.num_rows for table in (run.read_trials(), run.read_epochs(), run.read_architectures())] == [0, 0, 0]


def test_a_text_is_replaced_whole(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a.txt", "old")
    write_text_atomically(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_run_is_found_by_name_or_told_from_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"There is no run 'a' in .* There are no runs there: set runs=<folder>"):
        find_run(tmp_path, "a")
    for name in ("first", "second"):
        RunFolder(tmp_path / name).path.mkdir()
        RunFolder(tmp_path / name).config.write_text("")
    assert find_run(tmp_path, "second").path == tmp_path / "second"
    with pytest.raises(RunError, match=r"Did you mean 'first'\? There are: first, second\."):
        find_run(tmp_path, "frist")
    with pytest.raises(RunError, match="A run's name consists of"):
        find_run(tmp_path, "../first")
