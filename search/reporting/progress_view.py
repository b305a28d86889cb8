"""Progress in words and in the data of its chart: what the search had in hand after how much training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search import columns
from search.progress import Progress, Step, progress
from search.reporting.palette import style
from search.reporting.record import Record
from search.reporting.wording import quantity, written

REACHED = 0.95
_LATE = 0.25
"""Share of the time, at its end, over which the growth tells whether the search had levelled off."""
_LEVEL = 0.01
"""Growth of the hypervolume over that time, as a share of its final value, that still counts as level."""
_CPU = re.compile(r"\(\d+ threads?\)$|^cpu$")
"""How a trial's device is named where it is no GPU."""
_SCALES = ((2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


@dataclass(frozen=True)
class Unit:
    """What training time is counted in."""

    name: str
    seconds: float
    """Seconds of one trial in one unit."""

    def text(self, spent_s: float) -> str:
        """The number alone, with three significant digits."""
        return quantity(spent_s / self.seconds)


@dataclass(frozen=True)
class ProgressView:
    """The section: sentences, how time is counted, and what ``progress.js`` draws (none without a completed trial)."""

    sentences: list[str]
    caption: str
    chart: dict[str, Any] | None


def show_progress(record: Record) -> ProgressView:
    """Follow hypervolume and best mIoU of each run, and say how fast they rose and whether they had levelled off."""
    runs = record.parts or (record,)
    followed = {
        run.run.name: progress(run.epochs, run.trials, run.configurations, record.reference_point) for run in runs
    }
    total_s = sum(found.total_s for found in followed.values())
    unit = unit_of(record, total_s)
    with_front = {name: found for name, found in followed.items() if found.hypervolume}
    if not with_front:
        nothing = "No completed trial has mIoU, latency and size, so there is no progress to show"
        trained = f", although {unit.text(total_s)} {unit.name} went into training" if total_s else ""
        return ProgressView([f"{nothing}{trained}."], "", None)
    series = [_series(name, found, unit) for name, found in with_front.items()]
    colors = [{"color": style(index).color if record.parts else None} for index in range(len(series))]
    chart = {"unit": unit.name, "series": [one | color for one, color in zip(series, colors, strict=True)]}
    sentences = _sentences(next(iter(with_front.values())), unit) if not record.parts else _race(with_front, unit)
    return ProgressView(sentences, _caption(record, list(followed.values()), unit), chart)


def _series(name: str, found: Progress, unit: Unit) -> dict[str, Any]:
    return {
        "name": name,
        "total": _rounded(found.total_s / unit.seconds),
        "best": _points(found.best, unit),
        "hypervolume": _points(found.hypervolume, unit),
    }


def _sentences(found: Progress, unit: Unit) -> list[str]:
    return [_reached(found, unit), _levelled_off(found, unit)] if found.total_s else [_UNTIMED]


def _race(followed: Mapping[str, Progress], unit: Unit) -> list[str]:
    """What each of several runs had in hand after the same time, that of the shortest."""
    shortest_s = min(found.total_s for found in followed.values())
    if not shortest_s:
        return [_UNTIMED]
    reached = {name: found.hypervolume_at(shortest_s) for name, found in followed.items()}
    ranked = sorted(reached.items(), key=lambda entry: -entry[1])
    had = ", ".join(f"{name} {value:.3f}" for name, value in ranked)
    ends = ", ".join(f"{name} {unit.text(found.total_s)}" for name, found in followed.items())
    return [
        f"Hypervolume after {unit.text(shortest_s)} {unit.name}, when the shortest run ended: {had}.",
        f"Time of each run in {unit.name}: {ends}.",
    ]


_UNTIMED = "No epoch was reported with its time, so progress cannot be placed in time."


def unit_of(record: Record, total_s: float) -> Unit:
    """GPU time where all trials trained on GPUs, in the share of one that each had, if all had the same; else time of
    trials.
    """
    _, seconds, scale = next(entry for entry in _SCALES if total_s >= entry[0])
    places = {"CPU" if _CPU.search(row[columns.DEVICE]) else "GPU" for row in record.trials if row[columns.DEVICE]}
    gpus = _gpus_per_trial(record)
    if places == {"GPU"} and gpus is not None:
        return Unit(f"GPU {scale}", seconds / gpus)
    on = f" on {places.pop()}" if len(places) == 1 else ""
    return Unit(f"trial {scale}{on}", float(seconds))


def _gpus_per_trial(record: Record) -> float | None:
    """A worker gets a whole GPU unless the settings say otherwise (:func:`search.resources.share_of`); None where each
    trial had what its memory needs.
    """
    resources = record.settings.get("resources") or {}
    each = resources.get("gpus_per_trial") or 1.0
    return None if isinstance(each, str) else float(each) * int(resources.get("workers_per_trial") or 1)


def _reached(found: Progress, unit: Unit) -> str:
    until, total = (unit.text(spent) for spent in (found.spent_until(REACHED), found.total_s))
    top = found.best[-1]
    return (
        f"{100 * REACHED:.0f} % of the final hypervolume was reached after {until} of {total} {unit.name}; "
        f"the best mIoU, {written(columns.MIOU, top.value)} ({top.trial_id}), after {unit.text(top.spent_s)}."
    )


def _levelled_off(found: Progress, unit: Unit) -> str:
    last = found.hypervolume[-1]
    growth = 1 - found.hypervolume_at((1 - _LATE) * found.total_s) / last.value if last.value else 0.0
    when = f"The front last changed after {unit.text(last.spent_s)} {unit.name} ({last.trial_id})"
    if growth <= _LEVEL:
        little = f"by {100 * growth:.1g} %" if growth > 0 else "not at all"
        return f"{when}; over the last quarter of the time the hypervolume grew {little}: the search had levelled off."
    grew = f"over the last quarter of the time the hypervolume still grew by {100 * growth:.2g} % of its final value"
    return f"{when}; {grew}: the search had not levelled off, and more trials may well find better ones."


def _caption(record: Record, followed: Sequence[Progress], unit: Unit) -> str:
    """How time is counted, and what is left out."""
    shared = _gpus_per_trial(record)
    counted = f"The training time of all trials together in {unit.name}, of stopped and failed ones too"
    if unit.name.startswith("GPU") and shared is not None and shared != 1:
        counted += f"; each trial had {shared:g} {'of a GPU' if shared < 1 else 'GPUs'}"
    parts = [f"{counted}. Epochs count once they are reported; profiling and pauses do not.", "Hover tells the trial."]
    if record.repeated:
        parts.insert(1, "A configuration with several runs counts from the end of the last one, with their mean.")
    untimed = sum(found.untimed_epochs for found in followed)
    if untimed:
        parts.append(f"Epochs without a time, not counted: {untimed}.")
    unplaced = [trial for found in followed for trial in found.unplaced]
    if unplaced:
        parts.append(f"Completed without a recorded time, left out: {', '.join(unplaced)}.")
    return " ".join(parts)


def _points(steps: Iterable[Step], unit: Unit) -> list[tuple[float, float, str]]:
    return [(_rounded(step.spent_s / unit.seconds), _rounded(step.value), step.trial_id) for step in steps]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
