"""A run in a storage: the same files under the same names as in its folder, and who wrote them last.

Every start or continuation of a search with a storage is a sitting. It writes ``sitting.json`` to the storage and to
the run's folder. So the folder of a machine knows whether the storage has what it has itself, or what another
machine made of the run meanwhile.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import shlex
import shutil
import socket
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pyarrow import fs

from search.files import write_text_atomically
from search.run_folder import RUNNING, RunError, RunFolder, find_run
from search.storage import Storage

SITTING = "sitting.json"
_CONFIG, _STUDY = "config.yaml", "optuna.db"
CHECKPOINTS = ("best.pt", "last.pt")
"""Files of a trial that only those fetch who use them."""
SET_ASIDE = "superseded"
_KNOWN = ".fetched.json"
MIRRORED = ("results", "report", "gallery", "diagnosis")
"""Folders in which a fetch removes what the storage does not have."""
_AT_A_TIME = 16


@dataclass(frozen=True)
class Sitting:
    """One start or continuation of a search with a storage."""

    number: int
    id: str
    host: str
    began_at: str
    follows: str | None
    """``id`` of the one before."""

    def describe(self) -> str:
        """For people."""
        return f"sitting {self.number} on {self.host}, since {self.began_at}"


def read_sitting(storage: Storage) -> Sitting | None:
    """Who wrote the run last; none if the storage does not have it.

    Args:
        storage: that of the run.
    """
    content = storage.read(SITTING)
    return None if content is None else Sitting(**json.loads(content))


def own_sitting(run: RunFolder) -> Sitting | None:
    """The last sitting of this machine; none in a folder that was fetched, or never had a storage."""
    file = run.path / SITTING
    return Sitting(**json.loads(file.read_text())) if file.exists() else None


def begin_sitting(run: RunFolder, storage: Storage) -> Sitting:
    """Tell the run's storage that this machine goes on with it from now on.

    Raises:
        StorageError: the storage cannot be written.
    """
    before = read_sitting(storage)
    sitting = Sitting(
        number=1 if before is None else before.number + 1,
        id=uuid.uuid4().hex,
        host=socket.gethostname(),
        began_at=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
        follows=None if before is None else before.id,
    )
    content = json.dumps(dataclasses.asdict(sitting), indent=1)
    # Here first: after a kill in between, the storage still has the sitting that this one follows.
    write_text_atomically(run.path / SITTING, content)
    storage.put(SITTING, content.encode())
    return sitting


def list_runs(storage: Storage) -> list[str]:
    """Names of the runs in a storage.

    Raises:
        StorageError: it cannot be read.
    """
    return sorted(_started(storage))


def _started(storage: Storage) -> dict[str, int]:
    """When each run was started or continued last."""
    times = storage.modified(f"{name}/{_CONFIG}" for name in storage.folders())
    return {name.partition("/")[0]: when for name, when in times.items()}


def is_stored(storage: str, name: str) -> bool:
    """Whether a search with this storage had such a run.

    Raises:
        StorageError: the storage cannot be read.
    """
    return read_sitting(Storage(storage).child(name)) is not None


def require_free(storage: str, name: str) -> None:
    """Refuse the name of a run that the storage has, and a storage that takes nothing.

    Raises:
        RunError: the name is taken.
        StorageError: the storage cannot be read or written.
    """
    Storage(storage).require_writable()
    if is_stored(storage, name):
        raise RunError(
            f"There is a run {name!r} already in {Storage(storage).place}. Continue it with resume={name} "
            f"storage={shlex.quote(storage)}, or choose another run=<name>."
        )


def forget_run(storage: str, name: str) -> None:
    """Remove a run that came to nothing.

    Raises:
        StorageError: the storage does not do it.
    """
    run = Storage(storage).child(name)
    for file in run.files():
        run.remove(file)


def bring(runs: Path, name: str | None, storage: Storage, say: Callable[[str], None] = print) -> RunFolder:
    """The run in the folder ``runs``, with all that the storage has of it but checkpoints.

    A folder whose own search wrote the storage last has everything already, and is left as it is.

    Args:
        runs: the folder of all runs on this machine.
        name: of the run; none for the one started last.
        storage: that of all runs.
        say: tells people where results of this machine are put aside.

    Raises:
        RunError: the storage has no such run; the message lists those that exist.
        StorageError: it cannot be read.
    """
    run = RunFolder.named(runs, name or _latest(storage))
    if run.path.is_dir() and run.read_status() == RUNNING:
        return run  # by a process of this machine, which is ahead of the storage
    stored = read_sitting(storage.child(run.name))
    own = own_sitting(run)
    if stored is None:
        if own is None or not run.config.exists():
            raise RunError(_unknown(storage, run.name))
        return run  # The storage was out of reach when it began.
    if own is not None and stored.id in (own.id, own.follows):
        return run
    if storage.read(f"{run.name}/{_CONFIG}") is None:
        raise RunError(f"Run {run.name!r} in {storage.place} did not get as far as its first trial: nothing to read.")
    with run.held():
        if own is not None or (run.config.exists() and not (run.path / _KNOWN).exists()):
            _set_aside(run, stored, storage, say)
        _fetch(run, storage.child(run.name))
    return run


def find_stored_run(runs: Path, name: str | None, storage: str | None) -> RunFolder:
    """The run in the folder ``runs``; where a storage is given, as that has it (see :func:`bring`)."""
    return find_run(runs, name) if storage is None else bring(runs, name, Storage(storage))


def fetch_best(run: RunFolder, storage: str | None, trial_id: str) -> None:
    """Bring the trained model of a trial to the run's folder, unless it is there; one that was not kept is left out.

    Args:
        run: the run.
        storage: that of all runs; none for the one that the run was started with, if any.
        trial_id: the trial.

    Raises:
        StorageError: the storage cannot be read.
    """
    name = f"trials/{trial_id}/best.pt"
    if (run.path / name).exists():
        return
    storage = storage or yaml.safe_load(run.config.read_text()).get("storage")
    if storage is not None:
        Storage(storage).child(run.name).fetch(name, run.path / name)


def _latest(storage: Storage) -> str:
    started = _started(storage)
    if not started:
        raise RunError(f"There is no run in {storage.place}. Start one with: python -m search.run storage=<URI>")
    return max(started, key=lambda name: started[name])


def _unknown(storage: Storage, name: str) -> str:
    names = list_runs(storage)
    if not names:
        return f"There is no run {name!r} in {storage.place}, and no other."
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"There is no run {name!r} in {storage.place}. {hint}There are: {', '.join(names)}."


def _set_aside(run: RunFolder, stored: Sitting, storage: Storage, say: Callable[[str], None]) -> None:
    """Make room for what another machine made of the run, and keep what this one had."""
    place = run.path / SET_ASIDE / f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S-%f}"
    place.mkdir(parents=True)
    for path in (run.results, run.trials, run.storage, run.path / SITTING):
        if path.exists():
            shutil.move(path, place / path.name)
    (run.path / _KNOWN).unlink(missing_ok=True)
    say(
        f"Run {run.name} went on elsewhere ({stored.describe()}), so {storage.place} counts. What this machine had of "
        f"it is kept in {place}"
    )


def _fetch(run: RunFolder, storage: Storage) -> None:
    """Bring the run's folder to what the storage has; with its settings last, so that it is a run only when whole."""
    index = run.path / _KNOWN
    known: dict[str, list[int]] = json.loads(index.read_text()) if index.exists() else {}
    while True:
        # The study before the tables: what it was told of is in them then, also while another machine goes on.
        storage.fetch(_STUDY, run.storage)
        there = {name: info for name, info in storage.files().items() if _is_fetched(name)}
        changed = {name for name, info in there.items() if known.get(name) != _mark(info)}
        wanted = [name for name in there if name in changed or not (run.path / name).exists()]
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            got = dict(zip(wanted, pool.map(lambda name: storage.fetch(name, run.path / name), wanted), strict=True))
        known |= {name: _mark(there[name]) for name, whole in got.items() if whole}
        if all(got.values()):
            break  # else the search that runs elsewhere merged files meanwhile
    _remove_others(run, there)
    write_text_atomically(index, json.dumps({name: known[name] for name in there}))
    storage.fetch(_CONFIG, run.config)


def _is_fetched(name: str) -> bool:
    return PurePosixPath(name).name not in CHECKPOINTS and name not in (SITTING, _STUDY, _CONFIG)


def _mark(info: fs.FileInfo) -> list[int]:
    return [info.size, info.mtime_ns]


def _remove_others(run: RunFolder, there: Mapping[str, Any]) -> None:
    for folder in MIRRORED:
        for path in (run.path / folder).rglob("*"):
            if path.is_file() and path.relative_to(run.path).as_posix() not in there:
                path.unlink()
