"""Measures a search while it runs: CPU time by part, memory, files. For :mod:`scale`, which prints the lines."""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
from optuna.storages._cached_storage import _CachedStorage

from search.console import ProgressView
from search.engine import Search
from search.ledger import TrialRecord
from search.results import Table
from search.run_folder import RunFolder
from search.sampler import Sampler
from search.tracking.follower import Follower

PARTS = ("sampler", "storage", "tables", "reports", "engine", "view")


class Clock:
    """CPU time of each thread by part: a part within another interrupts it."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._of_thread = threading.local()

    def _turn(self, parts: list[str]) -> None:
        now = time.thread_time()
        if len(parts) > 0:
            self.spent_s[parts[-1]] += now - self._of_thread.since
        self._of_thread.since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is spent within belongs to ``name``."""
        parts: list[str] = vars(self._of_thread).setdefault("parts", [])
        self._turn(parts)
        parts.append(name)
        try:
            yield
        finally:
            self._turn(parts)
            parts.pop()

    def watch(self, owner: type, names: str, part: str) -> None:
        """Count all calls of these methods as ``part``."""
        for name in names.split():
            setattr(owner, name, self._watched(getattr(owner, name), part))

    def _watched(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def watched(*given: Any, **named: Any) -> Any:
            self.calls[method.__name__] += 1
            with self.part(part):
                return method(*given, **named)

        return watched

    def watch_search(self) -> None:
        """See the parts at the top of the file."""
        tells = "tell_completed tell_stopped tell_infeasible tell_failed"
        self.watch(Search, "next_trial end rest", "engine")
        self.watch(Search, "report stop_reason", "reports")
        self.watch(Sampler, f"ask {tells}", "sampler")
        self.watch(Table, "append flush flush_if_due compact", "tables")
        self.watch(ProgressView, "trial_started epoch_reported trial_ended _render", "view")
        storage = [name for name, item in vars(_CachedStorage).items() if callable(item) and name[0] != "_"]
        self.watch(_CachedStorage, " ".join(storage), "storage")


class Meter:
    """Observer that prints a line for each ``every`` trials that ended."""

    def __init__(self, run: RunFolder, clock: Clock, every: int, follow: int) -> None:
        self._run, self._clock, self._every, self._follow = run, clock, every, follow
        self._follower = Follower(run)
        self._ended = self._followed = 0
        self._most: Counter[str] = Counter()
        self._before = self._figures()
        self.lines: list[dict[str, Any]] = []

    def trial_started(self, trial: TrialRecord) -> None:
        """See Observer."""

    def epoch_reported(self, trial: TrialRecord, row: Mapping[str, Any]) -> None:
        """See Observer."""

    def trial_ended(self, row: Mapping[str, Any]) -> None:
        """See Observer."""
        with self._clock.part("meter"):
            self._ended += 1
            if self._ended % 20 == 0:
                self._look()
        if self._ended % self._follow == 0:
            with self._clock.part("follower"):
                self._followed += sum(item.end is not None for item in self._follower.poll())
        if self._ended % self._every == 0:
            self._say()

    def _look(self) -> None:
        files = sum(1 for _ in self._run.results.glob("*/*.parquet"))
        self._most |= Counter(parquet_files=files, open_files=psutil.Process().num_fds())

    def _figures(self) -> defaultdict[str, float]:
        """All CPU seconds of the driver, those of each part, and the number of reports."""
        others = {"driver": time.process_time(), "made": float(self._clock.calls["report"])}
        return defaultdict(float, self._clock.spent_s | others)

    def _say(self) -> None:
        now = self._figures()
        spent = defaultdict(float, {name: now[name] - self._before[name] for name in now})
        self._before = now
        driver = spent["driver"] - spent["meter"] - spent["follower"]
        parts = {name: spent[name] for name in PARTS}
        parts["rest"] = driver - sum(parts.values())
        line: dict[str, Any] = {"trials": self._ended, "reports": int(spent["made"])}
        line["ms_a_trial"] = _ms(driver, self._every)
        line["parts"] = {name: _ms(seconds, self._every) for name, seconds in parts.items()}
        line["report_ms"] = _ms(parts["reports"], spent["made"])
        line["follower_ms"] = _ms(spent["follower"], self._every)
        line |= {"rss_mb": round(psutil.Process().memory_info().rss / 1e6), **self._most}
        self._most.clear()
        self.lines.append(line)
        print(json.dumps(line), file=sys.__stdout__, flush=True)  # The view takes hold of the usual one.

    def summary(self) -> dict[str, Any]:
        """How the last line compares with the first."""
        first, last = self.lines[0], self.lines[-1]
        ratios = {name: _ratio(last[name], first[name]) for name in ("ms_a_trial", "report_ms")}
        ratios |= {name: _ratio(last["parts"][name], first["parts"][name]) for name in last["parts"]}
        grown = (last["rss_mb"] - first["rss_mb"]) / max(1, len(self.lines) - 1) / self._every
        return {"last_to_first": ratios, "rss_kb_a_trial": round(1000 * grown, 1), "followed": self._followed}


def _ratio(last: float, first: float) -> float | None:
    return round(last / first, 2) if first else None


def _ms(seconds: float, number: float) -> float:
    return round(1000 * seconds / max(number, 1), 3)
