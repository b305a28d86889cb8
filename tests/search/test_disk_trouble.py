"""A disk that refuses in the middle of a search: trials wait for it, and the search ends with how to go on."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from ray.tune.result import DONE

from search import trainable
from search.disk import disk_trouble_told
from search.run_folder import RunError, RunFolder
from search.trainable import FAILURE, TRIAL_ID, WAITING, TrialActor
from trainers.checkpoint import UnwritableError


def test_the_message_says_what_refused_and_how_to_go_on(tmp_path: Path) -> None:
    told = rf"{tmp_path}/file cannot be written: No space left on device\..*python -m search\.run resume=run"
    with pytest.raises(RunError, match=told), disk_trouble_told(RunFolder(tmp_path / "run")):
        raise OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/file")


def test_optunas_database_says_it_in_its_own_way(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "database")
    database.execute("PRAGMA max_page_count = 1")

    def commit() -> None:
        try:
            database.execute("CREATE TABLE trials (number)")
        except sqlite3.OperationalError as error:
            raise RuntimeError("An exception is raised during the commit.") from error

    told = r"run cannot be written: database or disk is full\..*resume=run"
    with pytest.raises(RunError, match=told), disk_trouble_told(RunFolder(tmp_path / "run")):
        commit()


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), disk_trouble_told(RunFolder(tmp_path / "run")):
        raise ZeroDivisionError


class FullDisk(TrialActor):
    """An actor whose trial cannot be kept."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {TRIAL_ID: "t0000"}
        self._waiting_since = None

    def _next_epoch(self) -> dict[str, Any]:
        raise UnwritableError(errno.ENOSPC, "No space left on device", "/runs/last.pt")

    def _forget(self) -> None:
        pass


def test_a_trial_waits_for_its_disk_and_fails_only_after_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "RETRY_S", 0.0)
    actor = FullDisk()
    for _ in range(3):
        result = actor.step()
        assert "/runs/last.pt cannot be written: No space left on device" in result[WAITING]
        assert not result.get(DONE)
    monkeypatch.setattr(trainable, "DISK_PATIENCE_S", 0.0)
    result = actor.step()
    assert result[DONE]
    assert "No space left on device" in result[FAILURE]
