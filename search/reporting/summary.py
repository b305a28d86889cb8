"""The answer of a run in a few sentences: the best, the compromise, the fast one, and what they are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search import columns, objectives
from search.objectives import Row
from search.reporting.failures_text import listed, weakest_classes
from search.reporting.record import Record, architecture_label, is_number
from search.reporting.uncertainty import is_luck
from search.reporting.wording import written

BEST, KNEE, FAST = "best mIoU", "knee", "fastest within 1 point of the best"
EXPORT_NAMES: Mapping[str, str] = {BEST: "best", KNEE: "knee", FAST: "fastest"}
"""Role to what ``python -m search.export`` calls it."""


@dataclass(frozen=True)
class Weakest:
    """Where a model is weakest."""

    classes: tuple[str, ...]
    """More than one only where they are equal."""
    iou: float

    def __str__(self) -> str:
        lead = "weakest classes are" if len(self.classes) > 1 else "weakest class is"
        return f"{lead} {listed(self.classes)}, IoU {self.iou:.2f}"


@dataclass(frozen=True)
class Pick:
    """One trial of the front that the answer names."""

    roles: tuple[str, ...]
    trial: Row
    label: str
    settings: list[tuple[str, str]]
    """Parameters that vary and are not in the label, with their values as written."""
    device: str
    """What its latency was measured on; empty when that is not known."""
    weakest: Weakest | None
    """None when no class has an IoU."""
    luck: bool
    """Whether its place on the front could be luck."""
    export: str
    """The command that exports it."""


@dataclass(frozen=True)
class Summary:
    """The answer: sentences, and the trials they are about."""

    sentences: list[str]
    """One for each pick; without any, what is lacking."""
    details: list[str]
    """What the best is worth, and what ran."""
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
    sentences = [_named(record, pick) for pick in picks] or [_no_front(record)]
    details = [_worth(record, picks), _what_ran(record, states)]
    return Summary([text for text in sentences if text], [text for text in details if text], picks, states)


def settings_of(record: Record, row: Row) -> list[tuple[str, str]]:
    """The parameters that vary and hold for this trial, as written, without those its label already names."""
    label = architecture_label(row).split()
    drawn = [(path, row[path]) for path in record.varying if row[path] is not None]
    return [(path, written(path, value)) for path, value in drawn if str(value) not in label]


def weakest_class(record: Record, row: Row) -> Weakest | None:
    """Where this model is weakest; absent classes are left out."""
    ious = [row[columns.iou_column(name)] for name in record.class_names]
    known = {index: iou for index, iou in enumerate(ious) if is_number(iou)}
    weakest = weakest_classes(known)
    return Weakest(tuple(record.class_names[index] for index in weakest), known[weakest[0]]) if weakest else None


def latency_device(record: Record, row: Row) -> str:
    """What the trial's latency was measured on; empty when the table of architectures does not say."""
    measured = [each for each in record.architectures if each[columns.ARCHITECTURE] == row[columns.ARCHITECTURE]]
    same = [each for each in measured if each[columns.LATENCY_MS] == row[columns.LATENCY_MS]]
    return next((each[columns.DEVICE_NAME] or "" for each in [*same, *measured]), "")


def _picks(record: Record) -> list[Pick]:
    chosen = {
        BEST: objectives.best(record.front),
        KNEE: objectives.knee(record.front),
        FAST: objectives.fastest_near_best(record.front),
    }
    roles: dict[str, list[str]] = {}
    for role, row in chosen.items():
        taken = roles.setdefault(row[columns.TRIAL_ID], []) if row else []
        if role != FAST or BEST not in taken:  # that of the best itself would say nothing new
            taken.append(role)
    rows = {row[columns.TRIAL_ID]: row for row in record.front_rows}
    return [_pick(record, rows[trial], tuple(named)) for trial, named in roles.items()]


def _pick(record: Record, row: Row, roles: tuple[str, ...]) -> Pick:
    return Pick(
        roles=roles,
        trial=row,
        label=architecture_label(row),
        settings=settings_of(record, row),
        device=latency_device(record, row),
        weakest=weakest_class(record, row),
        luck=is_luck(record, row[columns.TRIAL_ID]),
        export=_export(record, row[columns.TRIAL_ID], EXPORT_NAMES[roles[0]]),
    )


def _export(record: Record, trial_id: str, role: str) -> str:
    """The command that exports a pick; by its id where it is the pick of several runs together."""
    run, trial = record.source(trial_id)
    return f"python -m search.export {run.argument()} trial={role if len(record.runs) == 1 else trial}"


def _named(record: Record, pick: Pick) -> str:
    """The sentence of one pick: its figures and its weakest class."""
    row = pick.trial
    named = f"{row[columns.TRIAL_ID]} ({pick.label})"
    also = [f", also the {role}" for role in pick.roles[1:]]
    lead = {
        BEST: f"The best model is {named}",
        KNEE: f"The knee, the front's compromise, is {named}",
        FAST: f"The fastest within 1 point of the best is {named}",
    }[pick.roles[0]]
    device = f" on {pick.device}" if pick.device else ""
    cost = f"{written(columns.LATENCY_MS, row[columns.LATENCY_MS])} ms{device}, "
    size = f"{written(columns.SIZE_MB, row[columns.SIZE_MB])} MB"
    weakest = f"; its {pick.weakest}" if pick.weakest else ""
    miou = f"mIoU {written(columns.MIOU, row[columns.MIOU])}{_over_seeds(row)}"
    return f"{lead}{''.join(also)}: {miou}, {cost}{size}{_unrivalled(record, pick)}{weakest}."


def _unrivalled(record: Record, pick: Pick) -> str:
    """Said of the best that is itself the fastest near the best, where the front has other models."""
    fastest = objectives.fastest_near_best(record.front) or {}
    is_fastest = fastest.get(columns.TRIAL_ID) == pick.trial[columns.TRIAL_ID]
    return (
        "; none within 1 point of it is faster"
        if BEST in pick.roles and is_fastest and record.front.num_rows > 1
        else ""
    )


def _worth(record: Record, picks: Sequence[Pick]) -> str:
    """The size of the front, and how its best compares with models that learned nothing."""
    if not picks:
        return ""
    size = record.front.num_rows
    members = f"The front has {size} models." if size > 1 else "The front is this one model."
    return f"{members}{_against(record, picks[0].trial[columns.MIOU])}"


def _what_ran(record: Record, states: Sequence[tuple[str, int]]) -> str:
    total = len(record.trials)
    planned = record.settings.get("num_trials")
    of_plan = f" of {planned} planned" if isinstance(planned, int) and planned > total else ""
    if not total:
        return "No trial has ended or reported an epoch, so there is nothing to compare."
    parts = ", ".join(f"{number} {state}" for state, number in states)
    return f"{total}{of_plan} trial{'s' if total > 1 or of_plan else ''}: {parts}."


def _no_front(record: Record) -> str:
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
        return f" Models that learned nothing reach: {listed}."
    return f" The best reaches no more than a model that learned nothing: {listed}. Nothing useful was learned."
