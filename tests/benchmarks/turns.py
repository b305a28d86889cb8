"""Two things measured in turns: their seconds, and the spread of their ratios."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any


def in_turns(first: Callable[[], object], second: Callable[[], object], turns: int) -> list[tuple[float, float]]:
    """Seconds of both in each turn, after one turn to warm up."""
    return [(seconds(first), seconds(second)) for _ in range(turns + 1)][1:]


def seconds(run: Callable[[], object]) -> float:
    """How long it takes; memory that nobody holds any more is given back before."""
    gc.collect()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def spread(name: str, ratios: Iterable[float], digits: int) -> dict[str, Any]:
    """Their median under ``name``, the least and the most."""
    found = sorted(ratios)
    shown = {name: statistics.median(found), "least": found[0], "most": found[-1]}
    return {key: round(value, digits) for key, value in shown.items()}
