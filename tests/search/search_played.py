"""Searches with a storage, played without training: a machine, the storage's every state, and what must hold."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from untrained_search import BASE, CLASSES, open_search, prepare

from search import columns, trainable
from search.copying import Copier
from search.engine import Search
from search.ledger import TrialRecord
from search.run_folder import FINISHED, RunFolder
from search.stopping import Objectives
from search.storage import Storage
from search.stored_run import bring
from spaces import Space

CONTENT: dict[str, Any] = {
    "question": "Which rate?",
    "parameters": {"optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}},
    "baselines": [{"optimizer.lr": 1e-3}, {"optimizer.lr": 2e-3}],
}
CONCURRENT = 2


class Machine:
    """A machine with runs of its own, and the storage that it writes to."""

    def __init__(self, runs: Path, storage: str | None) -> None:
        self.runs, self.storage = runs, storage
        self.trouble: str | None = None
        """What the copier said at the end."""

    @property
    def place(self) -> Storage:
        """The storage."""
        assert self.storage is not None
        return Storage(self.storage)

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.runs / name)

    def search(self, name: str, num_trials: int = 6, **options: Any) -> RunFolder:
        run = self.run(name)
        run.trials.mkdir(parents=True)
        return self._go_on(run, num_trials, **options)

    def resume(self, name: str, num_trials: int = 6, **options: Any) -> RunFolder:
        run = self.run(name)
        if self.storage is not None and (Path(self.storage) / name / "sitting.json").exists():
            run = bring(self.runs, name, self.place)
        return self._go_on(run, num_trials, **options)

    def continue_by_hand(self, run: RunFolder) -> None:
        """A few more rows, without a copier."""
        _play(_open(run, 8, None), None, lambda _: None, 0.0)

    def _go_on(
        self,
        run: RunFolder,
        num_trials: int,
        *,
        say: Callable[[str], None] = print,
        after_trial: Callable[[int], None] = lambda _: None,
        pause_s: float = 0.0,
    ) -> RunFolder:
        prepare(run, CONTENT, num_trials=num_trials, storage=self.storage)
        with run.held(), nullcontext() if self.storage is None else Copier(run, self.place, say) as copier:
            if copier is not None:
                copier.offer()
            _play(_open(run, num_trials, copier), copier, after_trial, pause_s)
            run.write_status(FINISHED)
            self.trouble = None if copier is None else copier.close()
        return run


class SomeStop:
    """Stops every third trial after its first epoch."""

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> str | None:  # noqa: ARG002
        return "behind" if int(trial_id[1:5]) % 3 == 1 and epoch == 1 else None


def _open(run: RunFolder, num_trials: int, copier: Copier | None) -> Search:
    space = Space.from_dict("untrained", CONTENT)
    return open_search(run, space, num_trials, stopping=SomeStop(), copier=copier)[0]


def _play(search: Search, copier: Copier | None, after_trial: Callable[[int], None], pause_s: float) -> None:
    """Run all trials as actors would, with a checkpoint an epoch; every fourth trial fails."""
    running: list[TrialRecord] = []
    ended, count = False, 0
    while running or not ended:
        try:
            while len(running) < CONCURRENT and (trial := search.next_trial()) is not None:
                running.append(trial)
        except StopIteration:
            ended = True
        for trial in list(running):
            if _epoch(search, trial, copier):
                search.end(trial.trial_id)
                running.remove(trial)
                count += 1
                after_trial(count)
            time.sleep(pause_s)
            search.ledger._epoch_rows.flush()
            search.rest()
    search.close()


def _epoch(search: Search, trial: TrialRecord, copier: Copier | None) -> bool:
    """One epoch; whether that was the last one. The checkpoint holds the draw and the epochs, as a real one does."""
    last = f"trials/{trial.trial_id}/last.pt"
    drawn = repr(trial.assignment).encode()
    stored = None if copier is None else copier.storage.read(last)
    done = 0
    if stored is not None:
        assert stored.startswith(drawn), "the checkpoint of another draw"
        done = int(stored.rpartition(b"@")[2])
    epoch = min(max(done, trial.epoch) + 1, BASE.training.epochs)
    if int(trial.trial_id[1:5]) % 4 == 3 and epoch == 2:
        search.report(trial.trial_id, {trainable.FAILURE: "lost", trainable.TRACEBACK: "lost", columns.EPOCH: 0})
        return True
    if copier is not None:
        copier.storage.put(f"trials/{trial.trial_id}/best.pt", drawn)
        copier.storage.put(last, drawn + f"@{epoch}".encode())
    for one in range(trial.epoch + 1, epoch + 1):
        miou = trial.assignment["optimizer.lr"] * 10 + one / 1000
        row: dict[str, Any] = {columns.EPOCH: one, columns.MIOU: miou, columns.TRAIN_TIME_S: 1.0 * one}
        search.report(trial.trial_id, row | {columns.TRAIN_LOSS: 1 / one, columns.iou_column(CLASSES[0]): miou})
        if search.stop_reason(trial.trial_id, row) is not None:
            return True
    return epoch == BASE.training.epochs


class Recorded:
    """Everything that is written to local storages, so that every state they had can be had again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._writes: list[tuple[str, str, bytes | None]] = []
        self._recording = True
        put, remove = Storage.put, Storage.remove

        def put_and_tell(storage: Storage, name: str, content: bytes | Path) -> None:
            put(storage, name, content)
            if self._recording:
                data = content if isinstance(content, bytes) else Path(storage.uri, name).read_bytes()
                self._writes.append((Path(storage.uri).name, name, data))

        def remove_and_tell(storage: Storage, name: str) -> None:
            remove(storage, name)
            if self._recording:
                self._writes.append((Path(storage.uri).name, name, None))

        monkeypatch.setattr(Storage, "put", put_and_tell)
        monkeypatch.setattr(Storage, "remove", remove_and_tell)

    def names(self, run: str) -> list[str]:
        """What was written or removed, in order; records no more."""
        self._recording = False
        return [name for folder, name, _ in self._writes if folder == run]

    def replay(self, place: Path, count: int) -> None:
        """The storage after the first ``count`` writes."""
        shutil.rmtree(place, ignore_errors=True)
        for run, name, content in self._writes[:count]:
            path = place / run / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)


def stored_trials(runs: Path, place: Path, name: str) -> dict[str, dict[str, Any]]:
    """Rows of the trials that ended, of those that the stored study knows: what must never be lost."""
    run = bring(runs, name, Storage(str(place)))
    drawn = {f"t{number:04d}" for number, trial in enumerate(_study(run.storage)) if trial.state.name != "WAITING"}
    rows = run.read_trials().to_pylist()
    return {row["trial_id"]: row for row in rows if row["state"] != columns.INTERRUPTED and row["trial_id"] in drawn}


def _study(path: Path) -> list[optuna.trial.FrozenTrial]:
    if not path.exists() or not optuna.get_all_study_names(f"sqlite:///{path}"):
        return []
    return optuna.load_study(study_name="search", storage=f"sqlite:///{path}").trials


def assert_sound(run: RunFolder, stored: Path) -> None:
    """Every trial once, no epoch twice and no gap, the study and the storage agree, and no checkpoint is left over."""
    trials = run.read_trials().to_pylist()
    study = {f"t{trial.number:04d}": trial for trial in _study(run.storage)}
    assert sorted(row["trial_id"] for row in trials) == sorted(study)
    epochs = [(row["trial_id"], row["epoch"]) for row in run.read_epochs().to_pylist()]
    assert len(epochs) == len(set(epochs))
    for row in trials:
        assert study[row["trial_id"]].params["optimizer.lr"] == row["optimizer.lr"]
        assert study[row["trial_id"]].user_attrs[columns.STATE] == row["state"]
        assert {epoch for trial, epoch in epochs if trial == row["trial_id"]} == set(range(1, row["epoch"] + 1))
    there = RunFolder(stored)
    assert there.read_trials() == run.read_trials()
    assert there.read_epochs().sort_by("trial_id") == run.read_epochs().sort_by("trial_id")
    assert there.read_status() == FINISHED
    assert {name: trial.state for name, trial in study.items()} == {
        f"t{trial.number:04d}": trial.state for trial in _study(there.storage)
    }
    completed = {row["trial_id"] for row in trials if row["state"] == columns.COMPLETED}
    kept = {path.parent.name: path.name for path in stored.glob("trials/*/*.pt")}
    assert kept.items() <= dict.fromkeys(completed, "best.pt").items()
