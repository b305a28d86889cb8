"""A trial on disk: ``last.pt`` to go on from, ``best.pt`` to keep; each appears whole or not at all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config as serialization

from trainers.settings import TrialError

VERSION = 1


class CheckpointError(TrialError):
    """A checkpoint that cannot be read or belongs to another trial."""


class UnwritableError(OSError):
    """A checkpoint that the disk does not take: full, gone, or broken. The trial can go on once it does."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one trial in ``folder``; made when it is missing, but not the folder that it lies in.

    A node that loses sight of a shared folder would else write where nobody looks.
    """

    folder: Path

    @property
    def last(self) -> Path:
        """Model, optimizer, schedule and the history of epochs after the last epoch."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """Model and metrics of the epoch with the highest mIoU."""
        return self.folder / "best.pt"

    def load_last(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """What :meth:`save_last` stored, or none.

        Raises:
            CheckpointError: unreadable, or written under another configuration.
        """
        if not self.last.exists():
            return None
        content = load_checkpoint(self.last)
        if content["config"] != dict(config):
            raise CheckpointError(f"{self.last} belongs to another configuration: remove it or choose another folder.")
        return content

    def save_last(self, content: Mapping[str, Any]) -> None:
        """Replace ``last.pt``; keys are whatever the loop needs, plus ``config``.

        Raises:
            UnwritableError: naming the file and why; the one before is still there.
        """
        # Checksums take half as long as the rest, and this file lives for an epoch.
        with serialization.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]  # made at import
            self._save(content, self.last)

    def save_best(self, content: Mapping[str, Any]) -> None:
        """Replace ``best.pt``; raises as :meth:`save_last`."""
        self._save(content, self.best)

    def remove_last(self) -> None:
        """Forget how to go on: the trial's end is recorded."""
        self.last.unlink(missing_ok=True)
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Keep nothing of a trial that nobody will use."""
        self.remove_last()
        self.best.unlink(missing_ok=True)

    def _save(self, content: Mapping[str, Any], path: Path) -> None:
        # After a kill an old process of the trial may still write for a moment: never into the same file.
        hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(exist_ok=True)
            with hidden.open("wb") as stream:
                torch.save({"version": VERSION, **content}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            hidden.replace(path)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # torch says only that it failed.
            if not isinstance(cause, OSError):
                raise
            with suppress(OSError):
                hidden.unlink(missing_ok=True)
            raise UnwritableError(cause.errno, cause.strerror, str(path)) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors and plain values only.

    Raises:
        CheckpointError: not a checkpoint, or of another version.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise CheckpointError(f"{path} is not a checkpoint of version {VERSION}.")
    return content
