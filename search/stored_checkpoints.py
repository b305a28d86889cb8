"""The checkpoints of a trial whose run has a storage: written on the node where it trains, and put there.

No node sees the folder of another one then. Before an epoch is reported its checkpoints are in the storage; a storage
that refuses holds up an epoch for :data:`EPOCH_PATIENCE_S` at most, since the next one puts newer checkpoints. Only the
last epoch insists, for :data:`END_PATIENCE_S`: without its model a completed trial would be worth nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from search.storage import Storage, StorageError, patiently
from trainers.checkpoint import CheckpointError, Checkpoints

EPOCH_PATIENCE_S, END_PATIENCE_S = 30.0, 600.0
_LOCK = ".lock"


class StoredCheckpoints:
    """The checkpoints of one trial in ``folder``, which is this process's own, and in the storage."""

    def __init__(self, storage: str, trial_id: str) -> None:
        """Begin without any.

        Args:
            storage: URI of the run's folder in its storage.
            trial_id: the trial.
        """
        self._storage = Storage(storage).child("trials").child(trial_id)
        self._place, self._lock = _own_folder(trial_id)
        self.folder = self._place / "trial"
        self.folder.mkdir()
        self._stored: dict[str, tuple[int, int]] = {}

    def fetch_last(self, config: Mapping[str, Any]) -> None:
        """Bring ``last.pt`` of an earlier process of the trial, if there is one under the same configuration.

        One under another configuration is what a lost machine left: its draw was not stored, and the id was given anew.

        Raises:
            StorageError: the storage cannot be read.
        """
        checkpoints = Checkpoints(self.folder)
        patiently(lambda: self._storage.fetch(checkpoints.last.name, checkpoints.last), END_PATIENCE_S)
        try:
            checkpoints.load_last(config)
        except CheckpointError as error:
            logging.getLogger(__name__).warning("Not used: %s", error)
            checkpoints.remove_last()
        else:
            self._stored = self._written()

    def put(self, *, last_epoch: bool) -> None:
        """Put what was written since the last call: the model before the state to go on from.

        Raises:
            StorageError: the storage did not take what the trial's last epoch wrote.
        """
        written = self._written()
        try:
            for name, version in written.items():
                if self._stored.get(name) != version:
                    patience_s = END_PATIENCE_S if last_epoch else EPOCH_PATIENCE_S
                    patiently(partial(self._storage.put, name, self.folder / name), patience_s)
                    self._stored[name] = version
        except StorageError as error:
            if last_epoch:
                raise
            logging.getLogger(__name__).warning("Put with the next epoch: %s", error)

    def close(self) -> None:
        """Remove the folder."""
        self._lock.release()
        shutil.rmtree(self._place, ignore_errors=True)

    def _written(self) -> dict[str, tuple[int, int]]:
        checkpoints = Checkpoints(self.folder)
        found = {path.name: path.stat() for path in (checkpoints.best, checkpoints.last) if path.exists()}
        return {name: (status.st_mtime_ns, status.st_ino) for name, status in found.items()}


@dataclass(frozen=True)
class StoredModel:
    """The trained model of a trial, for a process on any node."""

    storage: str
    """URI of the run's folder in its storage."""
    trial_id: str

    @contextmanager
    def fetched(self) -> Iterator[Path]:
        """The file on this node, while the block lasts; absent if the trial's model was not kept.

        Raises:
            StorageError: the storage cannot be read.
        """
        place, lock = _own_folder(self.trial_id)
        with lock:
            path = Checkpoints(place).best
            Storage(self.storage).child("trials").child(self.trial_id).fetch(path.name, path)
            yield path
            shutil.rmtree(place)


def _own_folder(trial_id: str) -> tuple[Path, BaseFileLock]:
    """A new folder on this node, and the lock that says that its process lives; what killed ones left is removed."""
    scratch = Path(tempfile.gettempdir(), f"segmentation-search-{os.getuid()}")
    scratch.mkdir(mode=0o700, exist_ok=True)
    if scratch.stat().st_uid != os.getuid():
        raise StorageError(f"{scratch} belongs to another user. Set TMPDIR on this node.")
    with FileLock(scratch / _LOCK):
        for left in scratch.glob(f"*/{_LOCK}"):
            with contextlib.suppress(Timeout), FileLock(left, timeout=0):
                shutil.rmtree(left.parent, ignore_errors=True)
        place = Path(tempfile.mkdtemp(prefix=f"{trial_id}-", dir=scratch))
        lock = FileLock(place / _LOCK)
        lock.acquire()
    return place, lock
