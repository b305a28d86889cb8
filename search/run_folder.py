"""Where everything of one run lies: the one place that knows the names inside ``runs/<name>/``."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from search import columns
from search.files import write_text_atomically
from search.results import read_table

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

RUNNING, FINISHED, INTERRUPTED = "running", "finished", "interrupted"
"""What a search can be."""
_LOOK_S = 0.5
"""A process that only looks whether the run is held holds it for a moment itself."""


class RunError(ValueError):
    """A run that cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class RunFolder:
    """The layout of one run on disk."""

    path: Path

    @classmethod
    def named(cls, runs: Path, name: str) -> RunFolder:
        """The folder of run ``name`` in ``runs``.

        Raises:
            RunError: a name that is not a plain file name of letters, digits, dots, dashes and underscores.
        """
        if not _NAME.fullmatch(name):
            rule = "letters, digits, '.', '_' and '-' (at most 100, the first a letter or digit)"
            raise RunError(f"A run's name consists of {rule}; got {name!r}.")
        return cls(runs / name)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    def argument(self, key: str = "run") -> str:
        """What names this run on a command line: ``run=<name>``, and where the runs are unless that goes without."""
        return arguments([self], key)

    @property
    def config(self) -> Path:
        """The settings of the search."""
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        """What the data set is and what trivial models reach on it (see :meth:`read_data`)."""
        return self.path / "data.json"

    @property
    def warm_start(self) -> Path:
        """What the sampler was told of earlier runs; absent where there was none."""
        return self.path / "warm_start.json"

    @property
    def storage(self) -> Path:
        """Optuna's database."""
        return self.path / "optuna.db"

    @property
    def results(self) -> Path:
        """The Parquet tables."""
        return self.path / "results"

    @property
    def trials(self) -> Path:
        """One folder a trial: its configuration and checkpoints."""
        return self.path / "trials"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report"

    @property
    def gallery(self) -> Path:
        """What the models of the front see in validation images."""
        return self.path / "gallery"

    @property
    def diagnosis(self) -> Path:
        """How the models of the front fail on the validation set."""
        return self.path / "diagnosis"

    @property
    def wandb(self) -> Path:
        """What W&B's client keeps on disk, which sweep the run has there, and what was sent."""
        return self.path / "wandb"

    @property
    def status(self) -> Path:
        """Whether the search runs, finished or was interrupted (see :meth:`read_status`)."""
        return self.path / "status"

    def profile(self, trial_id: str) -> Path:
        """What the trial's architecture costs, as JSON: known before it trains."""
        return self.trials / trial_id / "profile.json"

    def stop_request(self, trial_id: str) -> Path:
        """Once this file is there, the trial is stopped after its next epoch; its text is the reason."""
        return self.trials / trial_id / "stop"

    @property
    def ray(self) -> Path:
        """Ray Tune's own state."""
        return self.path / "ray"

    @property
    def log(self) -> Path:
        """What the libraries said while the search ran."""
        return self.path / "search.log"

    def is_unbegun(self) -> bool:
        """Whether a search was killed while it made the folder: there is what it makes first, and nothing else."""
        first = {".lock", self.trials.name, self.results.name, self.data.name, self.warm_start.name}
        found = {item.name for item in self.path.iterdir() if not fnmatch(item.name, ".*.tmp")}
        return bool(found) and found <= first

    def require_writable_parent(self) -> None:
        """Refuse early a place where the run's folder could not be made.

        Raises:
            RunError: naming the place and why.
        """
        parent = self.path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            raise RunError(
                f"The folder of runs {parent} cannot be written: {error.strerror}. Set runs=<folder>."
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from running this run; the hold ends with this process, however it ends.

        Raises:
            RunError: another process holds it, or the folder cannot be written.
        """
        lock = FileLock(self.path / ".lock", timeout=_LOOK_S)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise RunError(f"Run {self.name!r} is being run by another process right now.") from error
        except OSError as error:
            raise RunError(
                f"The run's folder {self.path} cannot be written: {error.strerror}. Set runs=<folder>."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def read_status(self) -> str:
        """:data:`RUNNING`, :data:`FINISHED`, or :data:`INTERRUPTED`, as also after a kill."""
        status = self.status.read_text() if self.status.exists() else INTERRUPTED
        return INTERRUPTED if status == RUNNING and not self._is_held() else status

    def write_status(self, status: str) -> None:
        """Record how the search is; it is running only as long as the writer holds the run."""
        write_text_atomically(self.status, status)

    def _is_held(self) -> bool:
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except Timeout:
            return True

    def read_data(self) -> dict[str, Any]:
        """What :meth:`write_data` wrote.

        Raises:
            RunError: the file is absent or not JSON.
        """
        try:
            content: dict[str, Any] = json.loads(self.data.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(
                f"{self.path} is not a run that started: {self.data.name} cannot be read ({error})."
            ) from error
        return content

    def write_data(self, content: Mapping[str, Any]) -> None:
        """Record the data set and the space's question, atomically, for the report.

        Keys: ``name``, ``question``, ``classes`` (list of ``name`` and ``color``), ``num_train``, ``num_val``,
        ``height``, ``width``, ``notes``, ``parameters`` (dotted paths of the space), ``references`` (list of
        ``label`` and ``miou`` of models that learned nothing) and ``constraints``.
        """
        write_text_atomically(self.data, json.dumps(content, indent=1))

    def read_trials(self) -> pa.Table:
        """The ``trials`` table."""
        return read_table(self.results / "trials")

    def read_epochs(self) -> pa.Table:
        """The ``epochs`` table."""
        return read_table(self.results / "epochs")

    def read_architectures(self) -> pa.Table:
        """The ``architectures`` table."""
        return read_table(self.results / "architectures", columns.architectures_schema())

    def read_latency_checks(self) -> pa.Table:
        """The ``latency_checks`` table; without rows in a run that was not measured again."""
        return read_table(self.results / "latency_checks", columns.latency_checks_schema())


def arguments(runs: Sequence[RunFolder], key: str = "run") -> str:
    """What names these runs, all in one folder, on a command line."""
    parent = runs[0].path.absolute().parent
    names = ",".join(run.name for run in runs)
    return f"{key}={names}" + ("" if parent == Path("runs").absolute() else f" runs={shlex.quote(str(parent))}")


def latest_run(runs: Path) -> RunFolder:
    """The run started last.

    Raises:
        RunError: there is none.
    """
    started = [path.parent for path in runs.glob("*/config.yaml")]
    if not started:
        raise RunError(f"There is no run in {runs}. Start one with: python -m search.run")
    return RunFolder(max(started, key=lambda path: (path / "config.yaml").stat().st_mtime))


def find_run(runs: Path, name: str | None) -> RunFolder:
    """The run called ``name``, the one started last without a name.

    Raises:
        RunError: there is none; the message lists those that exist.
    """
    if name is None:
        return latest_run(runs)
    run = RunFolder.named(runs, name)
    if not run.path.is_dir():
        raise RunError(f"There is no run {name!r} in {runs}. {_others(runs, name)}")
    return run


def _others(runs: Path, name: str) -> str:
    names = sorted(path.parent.name for path in runs.glob("*/config.yaml"))
    if not names:
        return "There are no runs there: set runs=<folder>, or start one with: python -m search.run"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}There are: {', '.join(names)}."
