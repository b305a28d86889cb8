"""Files that appear whole: a reader sees the old content or the new, and a power cut loses neither."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
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


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
