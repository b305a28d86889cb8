"""The durable record of a search: Parquet tables that anyone can open while it runs.

A table is a folder of Parquet files. A batch of rows becomes one file: written under a hidden name, synced,
renamed; a file is never changed afterwards. :meth:`Table.compact` merges the files into one whose metadata names
the files it replaces, so that a kill between its appearance and their removal duplicates nothing for our reader,
and the next writer finishes the removal.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search.files import write_atomically

_REPLACES = b"replaces"
_PLACE = "place in the table"
FLUSH_INTERVAL_S = 1.0
"""Rows wait at most this long for company. A kill in between loses nothing: checkpoints hold their history."""


class ResultsError(ValueError):
    """Results that cannot be read; the message says which file and why."""


def read_table(folder: Path, schema: pa.Schema | None = None) -> pa.Table:
    """All rows of a table folder, in the order of its files; an absent or empty folder gives no rows.

    Columns of ``schema`` that a file lacks, because it was written before there were such, are null in its rows.

    Raises:
        ResultsError: a file that is not Parquet, or files of different schemas.
    """
    files = _live_files(folder)
    if not files:
        return (schema or pa.schema([])).empty_table()
    try:
        known = [] if schema is None else [schema.empty_table()]
        return pa.concat_tables([*map(_read_file, files), *known], promote_options="default" if known else "none")
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError) and _live_files(folder) != files:
            return read_table(folder, schema)  # The writer merged its files meanwhile: their rows are in a new one.
        raise ResultsError(f"The results in {folder} cannot be read: {error}") from error


def _read_file(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, partitioning=None)
    except pa.ArrowInvalid as error:
        raise ResultsError(f"{file} is not a readable Parquet file: {error}") from error


def _live_files(folder: Path) -> list[Path]:
    """The files that count: those no compacted file replaces."""
    files = sorted(folder.glob("*.parquet"))
    replaced = {name for file in files for name in _replaced_by(file)}
    return [file for file in files if file.name not in replaced]


def _replaced_by(file: Path) -> list[str]:
    if not file.name.startswith("compact-"):
        return []
    try:
        metadata = pq.read_schema(file).metadata or {}
    except FileNotFoundError:
        return []  # Merged into a newer file meanwhile, which says so itself.
    except pa.ArrowInvalid as error:
        raise ResultsError(f"{file} is not a readable Parquet file: {error}") from error
    names: list[str] = json.loads(metadata.get(_REPLACES, b"[]"))
    return names


class Table:
    """Appends rows to one table folder; one writer at a time."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._waiting: list[Mapping[str, Any]] = []
        self._flushed_at = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._finish_removals()

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns."""
        return frozenset(self._schema.names)

    def append(self, row: Mapping[str, Any]) -> None:
        """Queue one row; columns not named become null.

        Raises:
            KeyError: a column that the schema does not have.
        """
        unknown = row.keys() - self.columns
        if unknown:
            raise KeyError(f"table {self._folder.name} has no column {', '.join(sorted(unknown))}")
        self._waiting.append(row)

    def flush(self) -> None:
        """Make all queued rows durable and visible, in one new file."""
        self._flushed_at = time.monotonic()
        if self._waiting:
            rows = pa.Table.from_pylist([dict(row) for row in self._waiting], schema=self._schema)
            self._publish(rows, f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet")
            self._waiting = []

    def flush_if_due(self) -> None:
        """Flush when the oldest queued rows have waited :data:`FLUSH_INTERVAL_S`."""
        if time.monotonic() - self._flushed_at >= FLUSH_INTERVAL_S:
            self.flush()

    def compact(self, keep: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> None:
        """Merge all files into one, with the rows that ``keep`` returns."""
        self.flush()
        files = _live_files(self._folder)
        if files:
            rows = keep(read_table(self._folder, self._schema))
            metadata = dict(self._schema.metadata) | {_REPLACES: json.dumps([file.name for file in files]).encode()}
            name = f"compact-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            self._publish(rows.replace_schema_metadata(metadata), name)
            self._finish_removals()

    def read(self) -> pa.Table:
        """All rows written so far."""
        self.flush()
        return read_table(self._folder, self._schema)

    def _publish(self, rows: pa.Table, name: str) -> None:
        write_atomically(self._folder / name, lambda stream: pq.write_table(rows, stream))

    def _finish_removals(self) -> None:
        live = {file.name for file in _live_files(self._folder)}
        for file in self._folder.glob("*.parquet"):
            if file.name not in live:
                file.unlink()
        for leftover in self._folder.glob(".*.tmp"):
            leftover.unlink()


def last_rows(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The last row of each distinct ``keys``, in order of first appearance."""
    places = rows.select(keys).append_column(_PLACE, pa.array(np.arange(rows.num_rows)))
    found = places.group_by(keys).aggregate([(_PLACE, "min"), (_PLACE, "max")]).sort_by(f"{_PLACE}_min")
    return rows if found.num_rows == rows.num_rows else rows.take(found.column(f"{_PLACE}_max"))
