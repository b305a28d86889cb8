"""What to tell the user when the disk refuses in the middle of a search."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from search.run_folder import RunError, RunFolder

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN)
"""Errors of a disk that is full or protected, or of a network file system that is gone."""
_SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@contextmanager
def disk_trouble_told(run: RunFolder) -> Iterator[None]:
    """Say of a disk that refuses what it refused and how the search goes on.

    Raises:
        RunError: in place of an error that such a disk caused; others pass.
    """
    try:
        yield
    except Exception as error:
        told = _refusal(error, run)
        if told is None:
            raise
        raise RunError(
            f"{told}. What was recorded so far is safe. When the disk can be written again, go on with: "
            f"python -m search.run {run.argument('resume')}"
        ) from error


def _refusal(error: BaseException | None, run: RunFolder) -> str | None:
    """What the disk refused, if it is behind the error; libraries raise errors of their own from it."""
    while error is not None:
        if isinstance(error, OSError) and (error.errno in REFUSALS or not run.path.exists()):
            return f"{error.filename or run.path} cannot be written: {error.strerror}"
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _SQLITE:
            return f"{run.path} cannot be written: {error}"
        error = error.__cause__ or error.__context__
    return None
