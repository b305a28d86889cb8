"""How a command fails: one clear message for a mistake of the user's, and a log for what libraries say."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.nodes import ClusterError
from search.results import ResultsError
from search.run_folder import RunError
from search.storage import StorageError
from search.tracking.place import TrackingError
from spaces import SpaceError
from trainers.settings import TrialError

USER_ERRORS = (TrialError, SpaceError, RunError, ResultsError, ClusterError, TrackingError, StorageError)
"""Whose message is complete for the user."""
LIBRARIES = ("ray", "optuna", "wandb", "search", "albumentations")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn a mistake of the user's, or a disk that refuses, into its message on stderr and exit code 2."""
    try:
        yield
    except USER_ERRORS as error:
        # One that a task of Ray's raised comes inside an error of the same class whose message is a traceback.
        _exit(str(getattr(error, "cause", error)))
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _exit(f"{error.filename or 'The disk'} cannot be written: {error.strerror}.")


def _exit(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(2)


def log_to(path: Path) -> None:
    """Send what the libraries log to ``path`` instead of the terminal."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    for name in (*LIBRARIES, "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
