"""Files that appear whole: a reader sees the old report or the new one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from search.results import sync_folder


def publish(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Let ``write`` fill a hidden file and rename it to ``path``; a failure leaves what was there before."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with hidden.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        hidden.rename(path)
    finally:
        hidden.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path
