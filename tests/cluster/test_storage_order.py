"""A storage's order and faults: a machine lost between any two writes, a storage out of reach, two machines at once."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from search_played import Machine, Recorded, assert_sound, stored_trials

from search.run_folder import RunError, RunFolder
from search.storage import Storage, StorageError
from search.stored_run import SET_ASIDE, bring, own_sitting

pytestmark = pytest.mark.cluster

pytest_plugins = "storage_fixtures"

NAME = "mine"


def test_a_machine_lost_between_any_two_writes_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every state that the storage ever had is one that a search goes on from, and nothing stored is lost."""
    recorded = Recorded(monkeypatch)
    first = Machine(tmp_path / "first", str(tmp_path / "storage"))
    first.search(NAME)
    states = [number for number, name in enumerate(recorded.names(NAME), 1) if name != "sitting.json"]
    assert len(states) > 60
    for number in states[::3]:
        place = tmp_path / f"storage-{number}"
        recorded.replay(place, number)
        if not (place / NAME / "config.yaml").exists():
            with pytest.raises(RunError, match="did not get as far as its first trial"):
                bring(tmp_path / f"runs-{number}", NAME, Storage(str(place)))
            continue
        known = stored_trials(tmp_path / f"looked-{number}", place, NAME)
        second = Machine(tmp_path / f"runs-{number}", str(place))
        run = second.resume(NAME)
        assert_sound(run, place / NAME)
        rows = {row["trial_id"]: row for row in run.read_trials().to_pylist()}
        assert {trial: rows[trial] for trial in known} == known
        assert bring(tmp_path / f"again-{number}", NAME, Storage(str(place))).read_trials() == run.read_trials()


def test_a_storage_out_of_reach_holds_up_nothing_and_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, said = Machine(tmp_path / "runs", str(tmp_path / "storage")), list[str]()
    down = Down(monkeypatch)
    run = machine.search(NAME, say=said.append, after_trial=down.from_trial(2, until=5))
    assert down.refused
    assert_sound(run, tmp_path / "storage" / NAME)
    assert "cannot be written: out of reach. The search goes on; its results are in" in said[0]
    assert said[1].endswith("takes results again.")


def test_a_search_that_ends_with_its_storage_out_of_reach_says_how_to_copy_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "runs", str(tmp_path / "storage"))
    down = Down(monkeypatch)
    run = machine.search(NAME, after_trial=down.from_trial(3))
    assert machine.trouble is not None
    assert re.match(rf"{tmp_path}/storage lacks the last 0\.\d minutes of run mine \(", machine.trouble)
    assert f"To copy the rest: python -m search.run resume=mine runs={tmp_path}/runs" in machine.trouble
    rows = run.read_trials()
    down.over()
    machine.resume(NAME)
    assert machine.trouble is None
    assert run.read_trials() == rows
    assert_sound(run, tmp_path / "storage" / NAME)


class Down:
    """A storage that takes nothing for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch, self.refused, self._is_down = monkeypatch, 0, False
        put = Storage.put

        def refuse(storage: Storage, name: str, content: Any) -> None:
            if self._is_down and "trials/" not in name:
                self.refused += 1
                raise StorageError(f"The storage {storage.place} cannot be written: out of reach")
            put(storage, name, content)

        monkeypatch.setattr(Storage, "put", refuse)

    def from_trial(self, first: int, until: int | None = None) -> Callable[[int], None]:
        def ended(count: int) -> None:
            if count == first:
                self._is_down = True
            elif count == until:
                time.sleep(0.2)
                self.over()

        return ended

    def over(self) -> None:
        self._is_down = False


def test_a_machine_that_was_taken_for_dead_ends_its_search(tmp_path: Path) -> None:
    first, second = (Machine(tmp_path / name, str(tmp_path / "storage")) for name in ("first", "second"))

    def goes_on_elsewhere(count: int) -> None:
        if count == 3:
            second.resume(NAME)

    with pytest.raises(RunError, match=r"Run mine goes on elsewhere \(sitting 2 on .*\), so this search of it ends"):
        first.search(NAME, after_trial=goes_on_elsewhere, pause_s=0.05)
    assert RunFolder(tmp_path / "storage" / NAME).read_trials() == second.run(NAME).read_trials()


def test_what_another_machine_made_of_a_run_counts_and_the_rest_is_kept(tmp_path: Path) -> None:
    first, second = (Machine(tmp_path / name, str(tmp_path / "storage")) for name in ("first", "second"))
    first.search(NAME, num_trials=4)
    mine = first.run(NAME).read_trials()
    second.resume(NAME, num_trials=8)
    said: list[str] = []
    run = bring(first.runs, NAME, first.place, said.append)
    assert run.read_trials() == second.run(NAME).read_trials()
    assert "Run mine went on elsewhere (sitting 2 on" in said[0]
    (kept,) = (run.path / SET_ASIDE).iterdir()
    assert RunFolder(kept).read_trials() == mine
    assert own_sitting(run) is None
    # Fetched once more, with nothing new, and then with more.
    assert bring(first.runs, NAME, first.place, said.append).read_trials() == run.read_trials()
    second.resume(NAME, num_trials=9)
    assert bring(first.runs, NAME, first.place, said.append).read_trials().num_rows > 8
    assert len(said) == 1
