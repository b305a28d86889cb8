"""The answer of a run in a few sentences: the best, the compromise, the fast one, and what they are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search import columns, objectives
from search.objectives import Row
from search.reporting.record import Record, architecture_label, is_number
from search.reporting.wording import written

BEST, KNEE, FAST = "best mIoU", "knee", "fastest within 1 point of the best"


@dataclass(frozen=True)
class Pick:
    """One trial of the front that the answer names."""

    roles: tuple[str, ...]
    trial: Row
    label: str
    settings: list[tuple[str, str]]
    """Parameters that vary and are not in the label, with their values as written."""


@dataclass(frozen=True)
class Summary:
    """The answer: sentences, and the trials they are about."""

    sentences: list[str]
    picks: list[Pick]
    states: list[tuple[str, int]]
    """Every state that occurs, and its number of trials."""

    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Trial to its roles."""
        return {pick.trial[columns.TRIAL_ID]: pick.roles for pick in self.picks}


def summarise(record: Record) -> Summary:
    """Find the picks of the front and say what came of the search."""
    counts = Counter(row[columns.STATE] for row in record.trials)
    states = [(state, counts[state]) for state in columns.STATES if counts[state]]
    picks = _picks(record)
    sentences = [_what_won(record, picks), _what_ran(record, states)]
    return Summary([sentence for sentence in sentences if sentence], picks, states)


def settings_of(record: Record, row: Row) -> list[tuple[str, str]]:
    """The parameters that vary and hold for this trial, as written, without those its label already names."""
    label = architecture_label(row).split()
    drawn = [(path, row[path]) for path in record.varying if row[path] is not None]
    return [(path, written(path, value)) for path, value in drawn if str(value) not in label]


def _picks(record: Record) -> list[Pick]:
    chosen = {
        BEST: objectives.best(record.front),
        KNEE: objectives.knee(record.front),
        FAST: objectives.fastest_near_best(record.front),
    }
    roles: dict[str, list[str]] = {}
    rows = {row[columns.TRIAL_ID]: row for row in chosen.values() if row}
    for role, row in chosen.items():
        taken = roles.setdefault(row[columns.TRIAL_ID], []) if row else []
        if role != FAST or not taken:  # "the fastest near the best" says nothing new of the best itself
            taken.append(role)
    return [
        Pick(tuple(named), rows[trial], architecture_label(rows[trial]), settings_of(record, rows[trial]))
        for trial, named in roles.items()
    ]


def _what_ran(record: Record, states: Sequence[tuple[str, int]]) -> str:
    total = len(record.trials)
    planned = record.settings.get("num_trials")
    of_plan = f" of {planned} planned" if isinstance(planned, int) and planned > total else ""
    if not total:
        return "No trial has ended or reported an epoch, so there is nothing to compare."
    parts = ", ".join(f"{number} {state}" for state, number in states)
    return f"{total}{of_plan} trial{'s' if total > 1 or of_plan else ''}: {parts}."


def _what_won(record: Record, picks: Sequence[Pick]) -> str:
    if picks:
        best = picks[0].trial
        top, size = best[columns.MIOU], record.front.num_rows
        members = f"The front has {size} trials" if size > 1 else "The front is this one trial"
        return (
            f"The best reached mIoU {written(columns.MIOU, top)}{_over_seeds(best)}{_against(record, top)}. {members}."
        )
    if not record.trials:
        return ""
    partial = [row for row in record.trials if is_number(row[columns.MIOU]) and row[columns.STATE] != columns.COMPLETED]
    top_row = max(partial, key=lambda row: row[columns.MIOU], default=None)
    lead = "No completed trial has all three of mIoU, latency and size, so there is no front and no best model."
    if top_row is None:
        return lead
    value, epoch = written(columns.MIOU, top_row[columns.MIOU]), top_row[columns.EPOCH]
    where = f"{top_row[columns.TRIAL_ID]}, {top_row[columns.STATE]} at epoch {epoch}"
    return f"{lead} The highest mIoU on the way was {value} ({where}); it says little about the full budget."


def _over_seeds(row: Row) -> str:
    """The spread of a configuration that ran more than once."""
    if not is_number(row[columns.MIOU_STD]):
        return ""
    spread = written(columns.MIOU_STD, row[columns.MIOU_STD])
    return f" (mean of {row[columns.REPEATS]} seeds, standard deviation {spread})"


def _against(record: Record, top: float) -> str:
    """How the best compares with models that learned nothing."""
    references = [entry for entry in record.data["references"] if is_number(entry["miou"])]
    if not references:
        return ""
    named = [f"{entry['label']} ({written(columns.MIOU, entry['miou'])})" for entry in references]
    listed = " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else "".join(named)
    if top > max(entry["miou"] for entry in references):
        return f", against models that learned nothing: {listed}"
    return f", no more than a model that learned nothing: {listed}. Nothing useful was learned"
