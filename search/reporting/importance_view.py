"""What mattered: importances and one-factor effects as sentences and rows of dots, and the parallel coordinates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search import columns
from search.importance import COVERED, FRONT, LEAST_CONFIGURATIONS, RESAMPLES, Importance, Importances, importances
from search.one_factor import Level, one_factor
from search.reporting.record import Record, is_number
from search.reporting.wording import heading, written

_NAMED = 3
"""Parameters that a sentence names at most."""
_NEGLIGIBLE = 0.05
"""Parameters whose interval ends below are counted together, unless they are beyond chance."""
_SETTLED = 3
"""Configurations from which on an interval may widen the scale: that of two is nearly always endless."""
_FEW_VALUES = 6
"""Numbers with no more values have a tick at each in the parallel coordinates."""
_TITLES = {columns.MIOU: "mIoU", columns.LATENCY_MS: "latency", columns.SIZE_MB: "size", FRONT: "reaching the front"}
_NO_SPACE = "The settings of this run hold no space, so the importance of its parameters cannot be computed."


@dataclass(frozen=True)
class Dot:
    """One row of a small chart: a dot at ``place`` with a bar from ``low`` to ``high``, shares of the width."""

    label: str
    text: str
    place: float
    low: float | None
    high: float | None
    """Both None without an interval. Beyond [0, 1] it leaves the chart."""
    filled: bool = True


@dataclass(frozen=True)
class Panel:
    """A small chart: its title, the numbers at both ends of its scale, and its rows."""

    title: str
    ends: tuple[str, str]
    rows: list[Dot]
    rest: str = ""
    """What is not worth a row."""


@dataclass(frozen=True)
class ImportanceView:
    """The section."""

    sentences: list[str]
    rankings: list[Panel]
    basis: str
    """From how many configurations the rankings are, and how to read them; empty without any."""
    effects: list[Panel]
    chart: dict[str, Any] | None
    """The parallel coordinates, for ``parallel.js``; none without a completed trial."""


def show_importance(record: Record) -> ImportanceView:
    """Find what mattered in the completed configurations of a run."""
    done = [
        row for row in record.configurations if row[columns.STATE] == columns.COMPLETED and is_number(row[columns.MIOU])
    ]
    if not done:
        return ImportanceView(
            ["No trial completed with an mIoU, so nothing can be said about what mattered."], [], "", [], None
        )
    found = None if record.space is None else importances(record.configurations, record.space)
    possible = found if found and found.possible else None
    return ImportanceView(
        sentences=_sentences(found),
        rankings=_rankings(possible) if possible else [],
        basis=_basis(possible) if possible else "",
        effects=_effects(record),
        chart=_parallel(record, done),
    )


def _sentences(found: Importances | None) -> list[str]:
    if found is None:
        return [_NO_SPACE]
    if not found.parameters:
        return ["No parameter took several values in the completed configurations, so none can have mattered."]
    if len(found.parameters) == 1:
        return [f"Only {found.parameters[0]} took several values, so there is nothing to weigh it against."]
    if not found.possible:
        has = (
            f"{found.configurations} completed configurations have"
            if found.configurations != 1
            else "1 completed configuration has"
        )
        return [
            f"{has} mIoU, latency and size. Importance is shown from {LEAST_CONFIGURATIONS} on: it compares the best "
            "with all, needs at least five among the best, and five of fewer are hardly the best."
        ]
    return [_sentence(target, ranking) for target, ranking in found.rankings.items()]


def _sentence(target: str, ranking: Sequence[Importance]) -> str:
    title = _TITLES[target]
    if not ranking:
        what = "every objective" if target == FRONT else title
        return f"All completed configurations have the same {what}, so nothing mattered for it."
    clear = [importance for importance in ranking if importance.beyond_chance]
    if not clear:
        return f"For {title}, no parameter mattered more than chance would have it."
    first, *others = [f"{importance.path} ({_share(importance)})" for importance in clear[:_NAMED]]
    then = f", then {' and '.join(others)}" if others else ""
    how = "What mattered most for" if ranking[0].beyond_chance else "What chance does not explain for"
    return f"{how} {title}: {first}{then}."


def _share(importance: Importance) -> str:
    low, high = importance.interval
    return f"{importance.share:.2f}, interval {low:.2f} to {high:.2f}"


def _rankings(found: Importances) -> list[Panel]:
    return [_ranking(target, ranking) for target, ranking in found.rankings.items() if ranking]


def _ranking(target: str, ranking: Sequence[Importance]) -> Panel:
    worth = [found for found in ranking if found.beyond_chance or found.interval[1] >= _NEGLIGIBLE]
    rest = len(ranking) - len(worth)
    least = f"{rest} more, each below {_NEGLIGIBLE:g} and no more than chance" if rest else ""
    return Panel(_TITLES[target], ("0", "1"), [_importance_dot(found) for found in worth], least)


def _importance_dot(importance: Importance) -> Dot:
    low, high = importance.interval
    text = f"{importance.share:.2f} ({low:.2f} to {high:.2f})"
    return Dot(importance.path, text, importance.share, low, high, importance.beyond_chance)


def _basis(found: Importances) -> str:
    some = (
        f"{found.used} of the {found.configurations}, drawn at random,"
        if found.used < found.configurations
        else f"{found.used}"
    )
    return (
        "PED-ANOVA: how differently a parameter is distributed among the best tenth (at least five) and among all, as "
        f"a share of the sum over the parameters, from {some} completed configurations. Latency and size can only "
        "hang on the architecture and the image size, so only these are compared for them. A dot is the mean over "
        f"{RESAMPLES} bootstrap resamples, its bar their middle {100 * COVERED:.0f} %. Filled: more than in each of "
        f"{RESAMPLES} shuffles of the results among the configurations; hollow: chance does as much. It says where the "
        "best were, not which value is better, and it knows only the ranges that were searched."
    )


def _effects(record: Record) -> list[Panel]:
    listed = {} if record.space is None else {item.path: item.values for item in record.space.parameters}
    levels = {path: one_factor(record.configurations, path, listed.get(path, ())) for path in record.varying}
    shown = {path: found for path, found in levels.items() if len(found) > 1}
    if not shown:
        return []
    low, high = _scale([level for found in shown.values() for level in found])
    ends = written(columns.MIOU, low), written(columns.MIOU, high)
    return [Panel(path, ends, [_effect_dot(level, low, high) for level in found]) for path, found in shown.items()]


def _scale(levels: Iterable[Level]) -> tuple[float, float]:
    """One scale of mIoU for all panels, that holds every mean and every interval of more than two configurations."""
    marks = []
    for level in levels:
        marks.append(level.effect.mean)
        if level.effect.interval and level.effect.pairs >= _SETTLED:
            marks += level.effect.interval
    low, high = max(0.0, min(marks)), min(1.0, max(marks))
    margin = 0.04 * (high - low) or 0.01
    return low - margin, high + margin


def _effect_dot(level: Level, low: float, high: float) -> Dot:
    def place(value: float) -> float:
        return round((value - low) / (high - low), 4)

    effect = level.effect
    if effect.interval is None:
        return Dot(level.label, f"{effect.mean:.3f}, n = {effect.pairs}", place(effect.mean), None, None)
    ends = [f"{bound:.3f}" for bound in effect.interval]
    text = f"{effect.mean:.3f} ({ends[0]} to {ends[1]}), n = {effect.pairs}"
    start, end = effect.interval
    return Dot(level.label, text, place(effect.mean), place(start), place(end))


def _parallel(record: Record, done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every completed configuration along the parameters that vary and the objectives."""
    space = {} if record.space is None else {item.path: item for item in record.space.parameters}
    paths = [path for path in record.varying if len({repr(row[path]) for row in done}) > 1]
    short = short_names(paths)
    axes = []
    for path in paths:
        parameter = space.get(path)
        log = parameter is not None and parameter.distribution == "log_uniform_values"
        axes.append(_axis(path, short[path], [row[path] for row in done], log, parameter.values if parameter else ()))
    for name in (columns.SIZE_MB, columns.LATENCY_MS, columns.MIOU):
        axes.append(_axis(name, heading(name), [row[name] for row in done], name != columns.MIOU, ()))
    return {"trials": [row[columns.TRIAL_ID] for row in done], "axes": axes}


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last part of a path where that is enough to tell it from the others, else the whole path."""
    leaves = Counter(path.rpartition(".")[2] for path in paths)
    return {path: leaf if leaves[leaf := path.rpartition(".")[2]] == 1 and leaf != "name" else path for path in paths}


def _axis(path: str, label: str, column: Sequence[Any], log: bool, listed: Sequence[Any]) -> dict[str, Any]:
    """One axis: numbers as they are, all else by its place among the values, whose names are the ticks."""
    column = [None if isinstance(value, float) and not math.isfinite(value) else value for value in column]
    known = {value for value in column if value is not None}
    if all(is_number(value) and not isinstance(value, bool) for value in known):
        ticks = [[value, written(path, value)] for value in sorted(known)] if len(known) <= _FEW_VALUES else None
        values = [None if value is None else float(f"{value:.5g}") for value in column]
        return {
            "label": label,
            "path": path,
            "log": log and min(known, default=0) > 0,
            "ticks": ticks,
            "values": values,
        }
    order = {columns.cell(value): place for place, value in enumerate(listed)}
    names = sorted(known, key=lambda value: (order.get(value, len(order)), str(value)))
    places = {value: place for place, value in enumerate(names)}
    return {
        "label": label,
        "path": path,
        "log": False,
        "ticks": [[place, _text(value)] for value, place in places.items()],
        "values": [places.get(value) for value in column],
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
