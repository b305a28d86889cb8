"""The terminal: one calm live view while the search runs; lines instead where there is no terminal."""

from __future__ import annotations

import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search import columns
from search.objectives import non_dominated
from search.repeats import summarise

if TYPE_CHECKING:  # torch and Ray come with it, which other commands than the search need not wait for
    from search.ledger import TrialRecord


class ProgressView:
    """Observer that shows trials by state, epochs, best mIoU, front size, elapsed and remaining time."""

    def __init__(
        self, console: Console, title: str, num_trials: int, repeats: int, ended: list[dict[str, Any]]
    ) -> None:
        """``ended``: rows of ``trials`` from before, when a run is resumed."""
        self._console, self._title = console, title
        self._planned, self._repeats = num_trials * repeats, repeats
        self._states: Counter[str] = Counter()
        self._taken = 0
        """Trials that ended or will not come to be: the repeats of one that did not complete. Infeasible ones are
        left out, as in ``num_trials``."""
        self._runs: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        """Of each configuration the rows of the runs that ended."""
        self._objectives: dict[str, list[float]] = {}
        """Of each that completed."""
        self._running: dict[str, int] = {}
        self._epochs = 0
        for row in ended:
            self._count(row)
            self._epochs += row[columns.EPOCH]
        self._before = self._taken
        self._started = time.monotonic()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> ProgressView:
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def trial_started(self, trial: TrialRecord) -> None:
        """See Observer."""
        self._running[trial.trial_id] = trial.epoch

    def epoch_reported(self, trial: TrialRecord, row: Mapping[str, Any]) -> None:
        """See Observer."""
        self._running[trial.trial_id] = row[columns.EPOCH]
        self._epochs += 1

    def trial_ended(self, row: Mapping[str, Any]) -> None:
        """See Observer."""
        self._running.pop(row[columns.TRIAL_ID], None)
        self._count(row)
        if not self._console.is_terminal:
            self._console.print(Text(self._line(row)), soft_wrap=True)

    def _line(self, row: Mapping[str, Any]) -> str:
        miou, reason = row.get(columns.MIOU), row.get(columns.REASON)
        parts = [f"{row[columns.TRIAL_ID]} {row[columns.STATE]:<10}", f"epoch {row[columns.EPOCH]}"]
        parts += [f"mIoU {miou:.3f}"] if miou is not None else []
        parts += (
            [f"{row[columns.LATENCY_MS]:.2f} ms", f"{row[columns.SIZE_MB]:.2f} MB"] if columns.SIZE_MB in row else []
        )
        parts += [str(reason).splitlines()[0]] if reason else []
        return f"[{self._taken}/{self._planned} {clock(self._elapsed())}] " + "  ".join(parts)

    def _render(self) -> Group:
        states = [
            f"{len(self._running)} running",
            *(f"{self._states[state]} {state}" for state in columns.STATES if self._states[state]),
        ]
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self._planned, completed=self._taken, width=30),
            Text(f"{self._taken}/{self._planned} trials   {'  '.join(states)}"),
        )
        return Group(Text(self._title, style="bold"), bar, Text(self._summary()), Text(self._times()))

    def _summary(self) -> str:
        done = list(self._objectives.items())  # At once: the terminal is drawn by a thread of its own.
        if not done:
            return f"{self._epochs} epochs trained   no trial completed yet"
        best, (miou, *_) = max(done, key=lambda item: item[1][0])
        members = int(non_dominated(np.array([values for _, values in done], dtype=float)).sum())
        return f"{self._epochs} epochs trained   best mIoU {miou:.3f} ({best})   front of {members}"

    def _times(self) -> str:
        ended = self._taken - self._before
        left = self._planned - self._taken
        # Trials still running count as half done, which is right on average.
        pace = self._elapsed() / (ended + len(self._running) / 2) if ended else None
        remaining = "" if pace is None else f"   about {clock(pace * (left - len(self._running) / 2))} remaining"
        return f"{clock(self._elapsed())} elapsed{remaining}"

    def _count(self, row: Mapping[str, Any]) -> None:
        """Take note of a row of ``trials``."""
        self._states[row[columns.STATE]] += 1
        if row[columns.STATE] != columns.INFEASIBLE:
            alone = row[columns.STATE] == columns.COMPLETED or row[columns.REPEAT] > 0
            self._taken += 1 if alone else self._repeats
        configuration = row.get(columns.CONFIGURATION) or row[columns.TRIAL_ID]
        runs = self._runs[configuration]
        runs.append(row)
        summary = summarise(sorted(runs, key=lambda run: run.get(columns.REPEAT) or 0))
        if summary[columns.STATE] == columns.COMPLETED:
            self._objectives[configuration] = [summary[name] for name in columns.OBJECTIVES]

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def sayer(console: Console) -> Callable[[str], None]:
    """Prints lines as they are: not wrapped where output is piped, and brackets in names are no markup."""
    return functools.partial(console.print, soft_wrap=True, highlight=False, markup=False)
