"""The tables of the page as columns and cells; ``tables.js`` draws them from :meth:`PageTable.as_json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search import columns
from search.objectives import Row, hypervolume
from search.reporting.packing import packed_values
from search.reporting.record import Record, architecture_fields, architecture_label, is_number, numbers
from search.reporting.uncertainty import INTERVAL, PLACE, interval_text
from search.reporting.wording import MISSING, heading, written

ARCHITECTURE_LABEL = "label"
_HYPERVOLUME, _MEMBERS = "hypervolume", "on the front"
_COSTS = (columns.LATENCY_MS, columns.SIZE_MB, columns.PARAMS, columns.TRAIN_TIME_S)
_PROFILE = (
    *(columns.PARAMS, columns.SIZE_MB, columns.MACS),
    *(columns.LATENCY_MS, columns.LATENCY_AGAIN_MS, columns.LATENCY_P95_MS, columns.LATENCY_SPREAD),
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
    """One value: as written, and as sorted and copied (None when missing)."""

    text: str
    value: str | float | None


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

    def as_json(self) -> dict[str, Any]:
        """Number of rows, and each column with its packed values; and texts, where these are not the values."""
        cells = [[row.cells[index] for row in self.rows] for index in range(len(self.columns))]
        return {
            "count": len(self.rows),
            "columns": [
                {"key": column.key, "heading": column.heading, "numeric": column.numeric} | _packed(own)
                for column, own in zip(self.columns, cells, strict=True)
            ],
        }


def front_table(record: Record) -> PageTable:
    """The front, the fastest first: how sure each place is, and every drawn parameter that varies."""
    spread = [columns.MIOU_STD, columns.REPEATS] if record.repeated else []
    keys = [columns.TRIAL_ID, ARCHITECTURE_LABEL, columns.MIOU, INTERVAL, PLACE, *spread, *_COSTS, *record.varying]
    places = [record.places[row[columns.TRIAL_ID]] for row in record.front_rows]
    sure = [{INTERVAL: place.interval and interval_text(place.interval), PLACE: place.verdict} for place in places]
    return _trial_table(keys, [row | more for row, more in zip(record.front_rows, sure, strict=True)])


def runs_table(record: Record) -> PageTable:
    """The runs that the record puts side by side, measured from one corner; without rows for a single run."""
    members = [row[columns.TRIAL_ID] for row in record.front_rows]
    rows = [_run_row(part, record.reference_point, members) for part in record.parts]
    counts = ["trials", columns.COMPLETED]
    return _table(["run", "space", *counts, columns.MIOU, _HYPERVOLUME, _MEMBERS, columns.TRAIN_TIME_S], rows)


def _run_row(part: Record, corner: Mapping[str, float], members: Sequence[str]) -> Row:
    mious = [row[columns.MIOU] for row in part.front_rows]
    return {
        "run": part.run.name,
        "space": part.settings.get("space_name"),
        "trials": len(part.trials),
        columns.COMPLETED: sum(row[columns.STATE] == columns.COMPLETED for row in part.trials),
        columns.MIOU: max(mious, default=None),
        _HYPERVOLUME: hypervolume(part.front, corner),
        _MEMBERS: sum(member.startswith(part.prefix) for member in members),
        columns.TRAIN_TIME_S: float(np.nansum(numbers(part.epochs, columns.EPOCH_TIME_S))),
    }


def trials_table(record: Record) -> PageTable:
    """Every trial in the order drawn, with state and reason."""
    seed = [columns.SEED] if record.repeated else []
    head = [columns.TRIAL_ID, columns.STATE, ARCHITECTURE_LABEL, *seed, columns.MIOU, *_COSTS]
    progress = [columns.EPOCH, columns.EPOCHS, columns.BEST_EPOCH]
    return _trial_table([*head, *progress, *record.varying, columns.REASON], record.trials)


def architectures_table(record: Record) -> PageTable:
    """What was measured of each architecture before training, with the details on which they differ."""
    details = _differing([architecture_fields(row) for row in record.architectures])
    rows = [{**dict.fromkeys(details), **_details(row), **row} for row in record.architectures]
    return _table([ARCHITECTURE_LABEL, *details, *_PROFILE], rows)


def _trial_table(keys: Sequence[str], rows: Iterable[Row]) -> PageTable:
    return _table(keys, [{ARCHITECTURE_LABEL: architecture_label(row)} | row for row in rows])


def _table(keys: Sequence[str], rows: Sequence[Row]) -> PageTable:
    shown = [Column(key, _heading(key), _numeric(row[key] for row in rows)) for key in keys]
    return PageTable(shown, [_row(keys, row) for row in rows])


def _row(keys: Sequence[str], row: Row) -> TableRow:
    cells = [Cell(written(key, row[key]), _raw(row[key])) for key in keys]
    return TableRow(cells, row.get(columns.TRIAL_ID, ""), row.get(columns.STATE, ""))


def _raw(value: Any) -> str | float | None:
    if isinstance(value, float):
        return float(f"{value:.7g}") if is_number(value) else None
    return value if value is None or (isinstance(value, int) and not isinstance(value, bool)) else str(value)


def _packed(cells: Sequence[Cell]) -> dict[str, Any]:
    values = {"values": packed_values([cell.value for cell in cells])}
    if all(map(_is_written_as_it_is, cells)):
        return values
    return values | {"texts": packed_values([cell.text for cell in cells])}


def _is_written_as_it_is(cell: Cell) -> bool:
    if cell.value is None:
        return cell.text == MISSING
    return not isinstance(cell.value, float) and cell.text == str(cell.value)


def _heading(key: str) -> str:
    own = {ARCHITECTURE_LABEL: "architecture", INTERVAL: "mIoU, 95 % interval", PLACE: "place"}
    return own.get(key) or heading(key)


def _numeric(values: Iterable[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)


def _details(row: Row) -> Row:
    return {ARCHITECTURE_LABEL: architecture_label(row), **architecture_fields(row)}


def _differing(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """The numbers and switches on which at least two architectures differ; their names are in the label."""
    names = dict.fromkeys(name for identity in identities for name in identity)
    details = [name for name in names if not any(isinstance(identity.get(name), str) for identity in identities)]
    return [name for name in details if len({repr(each[name]) for each in identities if name in each}) > 1]
