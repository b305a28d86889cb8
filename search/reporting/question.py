"""The space's question and its answer: sentences, tables and the data of the figure, from paired comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from search import columns
from search.comparisons import Comparisons, Contrast, Effect, Factor, Level, compare
from search.reporting import question_text as text
from search.reporting.record import Record
from search.reporting.tables import Cell, Column, PageTable, TableRow
from search.reporting.wording import MISSING, heading, written

UNNAMED = "What made a difference?"
_NO_SPACE = "The settings of this run hold no space, so nothing is compared."
_SEVERAL = "The question of each run is answered in its own report, from pairs of its own trials."
_NOTHING_YET = "No two completed trials differ in what the question is about, so there is nothing to compare."
_LEVELS = (
    *(Column("level", "level", False), Column("trials", "trials", True)),
    *(Column("configurations", "configurations", True), Column("mean", "mIoU of all, mean ± std", True)),
    *(Column(columns.TRIAL_ID, "best configuration", False), Column("best", "its mIoU, mean ± std", True)),
    Column("runs", "its runs", True),
    *(Column(name, heading(name), True) for name in (columns.LATENCY_MS, columns.SIZE_MB)),
    Column("best_difference", "against the first level's best, points (95 %)", True),
)
_DIFFERENCES = (
    *(Column("contrast", "comparison", False), Column("within", "where", False), Column("pairs", "pairs", True)),
    *(Column("difference", "mIoU points", True), Column("interval", "95 % interval", True)),
    Column("verdict", "verdict", False),
)


@dataclass(frozen=True)
class ClassHeat:
    """IoU of each class under each level: label, mIoU as written, and one cell a class (value and as written)."""

    rows: list[tuple[str, str, list[tuple[float | None, str]]]]
    basis: str
    """Over which trials."""


@dataclass(frozen=True)
class FactorView:
    """What the section shows of one factor."""

    name: str
    sentences: list[str]
    """Whether each level helps, the clearest first."""
    details: list[str]
    """Which classes gain and lose, and how the best configurations compare."""
    levels: PageTable
    differences: PageTable
    heat: ClassHeat
    chart: dict[str, Any]


@dataclass(frozen=True)
class QuestionView:
    """The whole section."""

    title: str
    sentences: list[str]
    factors: list[FactorView]
    """In the order of the space's ``compare``."""
    notes: list[str]


def answer_question(record: Record) -> QuestionView:
    """Compare what the run's space asks about, and put it into words, numbers and the data of a figure."""
    title = str(record.data["question"]) or UNNAMED
    if record.space is None:
        return QuestionView(title, [_NO_SPACE if len(record.runs) == 1 else _SEVERAL], [], [])
    found = compare(record.trials, record.space, record.class_names)
    views = [_view(factor, record.class_names) for factor in found.factors]
    answered = zip(found.factors, views, strict=True)
    paired = [line for factor, view in answered if factor.paired for line in view.sentences]
    unlike = [factor for factor in found.factors if not factor.paired]
    best = [text.best_of_each(factor.levels, (), factor.name) for factor in unlike]
    sentences = [*paired, *text.unpaired([factor.name for factor in unlike]), *best]
    return QuestionView(title, sentences or [_NOTHING_YET], views, _notes(record, found))


def _view(factor: Factor, classes: Sequence[str]) -> FactorView:
    ordered = sorted(factor.contrasts, key=text.clarity)
    levels = {level.label: level for level in factor.levels}
    details = [text.best_of_each(factor.levels, factor.contrasts)] if factor.paired else []
    for contrast in ordered:
        details += text.class_changes(contrast, levels[contrast.reference], levels[contrast.level], classes)
    return FactorView(
        name=factor.name,
        sentences=[text.contrast(factor.name, contrast) for contrast in ordered],
        details=details,
        levels=_levels_table(factor),
        differences=_differences_table(factor),
        heat=_heat(factor, classes),
        chart=_chart(factor),
    )


def _levels_table(factor: Factor) -> PageTable:
    best = {contrast.level: contrast.best for contrast in factor.contrasts}
    return PageTable(list(_LEVELS), [_level_row(level, best.get(level.label)) for level in factor.levels])


def _level_row(level: Level, best: Effect | None) -> TableRow:
    top = level.best
    cells = [
        level.label,
        str(len(level.trials)),
        str(level.configurations),
        text.with_spread(level.mean, level.std),
        top[columns.TRIAL_ID],
        text.with_spread(top[columns.MIOU], top[columns.MIOU_STD]),
        str(top[columns.REPEATS]),
        *(written(name, top[name]) for name in (columns.LATENCY_MS, columns.SIZE_MB)),
        _with_interval(best),
    ]
    return _row(cells, top[columns.TRIAL_ID])


def _with_interval(effect: Effect | None) -> str:
    if effect is None:
        return MISSING
    mean, interval = text.points(effect)
    return f"{mean} ({interval})" if interval else mean


def _row(cells: Iterable[str], trial: str = "") -> TableRow:
    return TableRow([Cell(cell, cell) for cell in cells], trial)


def _differences_table(factor: Factor) -> PageTable:
    rows = []
    for contrast in factor.contrasts:
        name = f"{contrast.level} against {contrast.reference}"
        for within, effect in _effects(contrast):
            mean, interval = text.points(effect)
            rows.append(_row([name, within, str(effect.pairs), mean, interval or MISSING, text.verdict(effect)]))
    return PageTable(list(_DIFFERENCES), rows)


def _effects(contrast: Contrast) -> list[tuple[str, Effect]]:
    """The effect over all pairs and within each value of other parameters, with where."""
    if contrast.effect is None:
        return []
    splits = [(f"{split.path} {split.value}", split.effect) for split in contrast.splits]
    return [("all pairs", contrast.effect), *splits]


def _heat(factor: Factor, classes: Sequence[str]) -> ClassHeat:
    names = [columns.iou_column(name) for name in classes]
    rows = [
        (level.label, written(columns.MIOU, level.typical[columns.MIOU]), [_cell(level.typical[n]) for n in names])
        for level in factor.levels
    ]
    return ClassHeat(rows, text.class_basis(factor.shared_contexts))


def _cell(value: float | None) -> tuple[float | None, str]:
    return (None, MISSING) if value is None else (round(value, 4), f"{value:.2f}")


def _chart(factor: Factor) -> dict[str, Any]:
    """What ``question.js`` draws; differences in points."""
    return {
        "name": factor.name,
        "levels": [
            {
                "label": level.label,
                "trials": [row[columns.TRIAL_ID] for row in level.trials],
                "mean": round(level.mean, 5),
                "interval": [round(bound, 5) for bound in level.interval or ()],
            }
            for level in factor.levels
        ],
        "effects": [
            _bar(contrast, within, effect) for contrast in factor.contrasts for within, effect in _effects(contrast)
        ],
    }


def _bar(contrast: Contrast, within: str, effect: Effect) -> dict[str, Any]:
    whole = effect is contrast.effect
    return {
        "label": f"{contrast.level} against {contrast.reference}" if whole else f"at {within}",
        "whole": whole,
        "mean": round(100 * effect.mean, 4),
        "interval": [round(100 * bound, 4) for bound in effect.interval or ()],
        "text": f"{text.difference(effect)}: {text.verdict(effect, contrast.level)}",
        "shown": effect.shown,
    }


def _notes(record: Record, found: Comparisons) -> list[str]:
    stopped = sum(row[columns.STATE] == columns.STOPPED for row in record.trials)
    notes = [f"{' and '.join(paths)}: a range has no levels to compare." for paths in found.ranges]
    notes += [f"{' and '.join(paths)}: the completed trials have one value only." for paths in found.constant]
    if found.factors:
        notes += text.NOTES
        notes += [text.stopped_early(stopped)] if stopped else []
    return notes
