"""Files and folders that appear whole: a reader sees the old content or the new, and a power cut loses neither."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Let ``write`` fill a hidden file, make it durable and rename it to ``path``; a failure leaves what was there."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with hidden.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        hidden.rename(path)
    finally:
        hidden.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def write_text_atomically(path: Path, text: str) -> Path:
    """:func:`write_atomically` for text, in UTF-8."""
    return write_atomically(path, lambda stream: stream.write(text.encode()))


@contextmanager
def replaced_folder(place: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``place`` once the block ends; a failure leaves what was there.

    For a moment a reader finds nothing. What a writer that was killed left beside it is removed. One writer at a time.
    """
    new, old = place.with_name(f".{place.name}.partial"), place.with_name(f".{place.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        new.rename(place)
        _sync_folder(place.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
