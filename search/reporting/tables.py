"""The tables of the page as columns and cells; the template only draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from search import columns
from search.objectives import Row
from search.reporting.record import Record, architecture_fields, architecture_label, is_number
from search.reporting.wording import heading, written

ARCHITECTURE_LABEL = "label"
_COSTS = (columns.LATENCY_MS, columns.SIZE_MB, columns.PARAMS, columns.TRAIN_TIME_S)
_PROFILE = (
    *(columns.PARAMS, columns.SIZE_MB, columns.MACS),
    *(columns.LATENCY_MS, columns.LATENCY_P95_MS, columns.LATENCY_SPREAD),
    *(columns.DEVICE, columns.DEVICE_NAME, columns.FEASIBLE, columns.REASON),
)


@dataclass(frozen=True)
class Column:
    """One column: its name in the data, its heading, and whether it sorts by number."""

    key: str
    heading: str
    numeric: bool


@dataclass(frozen=True)
class Cell:
    """One value: as written, and as sorted and copied (empty when missing)."""

    text: str
    value: str


@dataclass(frozen=True)
class TableRow:
    """One row; ``trial`` and ``state`` are empty for what is no trial."""

    cells: list[Cell]
    trial: str = ""
    state: str = ""


@dataclass(frozen=True)
class PageTable:
    """A sortable table of the page."""

    columns: list[Column]
    rows: list[TableRow]


def front_table(record: Record) -> PageTable:
    """The front, the fastest first, with every drawn parameter that varies."""
    spread = [columns.MIOU_STD, columns.REPEATS] if record.repeated else []
    keys = [columns.TRIAL_ID, ARCHITECTURE_LABEL, columns.MIOU, *spread, *_COSTS, *record.varying]
    return _trial_table(keys, record.front_rows)


def trials_table(record: Record) -> PageTable:
    """Every trial in the order drawn, with state and reason."""
    seed = [columns.SEED] if record.repeated else []
    head = [columns.TRIAL_ID, columns.STATE, ARCHITECTURE_LABEL, *seed, columns.MIOU, *_COSTS]
    progress = [columns.EPOCH, columns.EPOCHS, columns.BEST_EPOCH]
    return _trial_table([*head, *progress, *record.varying, columns.REASON], record.trials)


def architectures_table(record: Record) -> PageTable:
    """What was measured of each architecture before training, with the details on which they differ."""
    details = _differing([architecture_fields(row) for row in record.architectures])
    rows = [dict.fromkeys(details) | _details(row) | row for row in record.architectures]
    return _table([ARCHITECTURE_LABEL, *details, *_PROFILE], rows)


@dataclass(frozen=True)
class ClassIou:
    """Per-class IoU of the front: one row a trial, one cell a class (value in [0, 1] or None, and as written)."""

    rows: list[tuple[Row, str, list[tuple[float | None, str]]]]


def class_iou(record: Record) -> ClassIou:
    """The heat map of the front, in the front's order."""
    names = [columns.iou_column(name) for name in record.class_names]
    rows = record.front_rows
    return ClassIou([(row, architecture_label(row), [_heat(row.get(name)) for name in names]) for row in rows])


def _heat(value: Any) -> tuple[float | None, str]:
    return (round(value, 4), f"{value:.2f}") if is_number(value) else (None, written(columns.MIOU, None))


def _trial_table(keys: Sequence[str], rows: Iterable[Row]) -> PageTable:
    return _table(keys, [{ARCHITECTURE_LABEL: architecture_label(row)} | row for row in rows])


def _table(keys: Sequence[str], rows: Sequence[Row]) -> PageTable:
    shown = [Column(key, _heading(key), _numeric(row[key] for row in rows)) for key in keys]
    return PageTable(shown, [_row(keys, row) for row in rows])


def _row(keys: Sequence[str], row: Row) -> TableRow:
    cells = [Cell(written(key, row[key]), _raw(row[key])) for key in keys]
    return TableRow(cells, row.get(columns.TRIAL_ID, ""), row.get(columns.STATE, ""))


def _raw(value: Any) -> str:
    if value is None or (isinstance(value, float) and not is_number(value)):
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _heading(key: str) -> str:
    return "architecture" if key == ARCHITECTURE_LABEL else heading(key)


def _numeric(values: Iterable[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)


def _details(row: Row) -> Row:
    return {ARCHITECTURE_LABEL: architecture_label(row)} | architecture_fields(row)


def _differing(identities: Sequence[Row]) -> list[str]:
    """The numbers and switches on which at least two architectures differ; their names are in the label."""
    names = dict.fromkeys(name for identity in identities for name in identity)
    details = [name for name in names if not any(isinstance(identity.get(name), str) for identity in identities)]
    return [name for name in details if len({repr(each[name]) for each in identities if name in each}) > 1]
