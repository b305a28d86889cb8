"""The durable record of a search: Parquet tables that anyone can open while it runs.

A table is a folder of Parquet files. A batch of rows becomes one file: written under a hidden name, synced,
renamed; a file is never changed afterwards. Each has a stamp in its name, higher than that of any file before it.

Files are merged while the search runs, so that they stay few: whenever more than :data:`MOST_PARTS` batches have files
of their own, all but the newest become one file, together with the merged files before them that are no larger. So
each row is written again once each time the table has doubled (log-structured merging: O'Neil et al. 1996), and of n
batches there are hardly more than ``MOST_PARTS + log2(n)`` files. The name of a merged file says from which stamp on
it replaces all files before it. So a kill between its appearance and their removal duplicates nothing for our reader,
and the next writer finishes the removal. Who opens the folder without our code may for these milliseconds, or after
such a kill, see rows twice, and may find a file gone that was just listed: open it again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search.files import write_atomically

_PLACE = "place in the table"
MOST_PARTS = 32
"""Batches that have files of their own."""
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
    contents: dict[Path, pa.Table] = {}
    while True:
        files = _live_files(folder)
        try:
            contents |= {file: _read_file(file) for file in files if file not in contents}
        except FileNotFoundError as error:
            if _live_files(folder) == files:
                raise ResultsError(f"The results in {folder} cannot be read: {error}") from error
        else:  # Otherwise the writer merged files meanwhile: their rows are in a new one.
            return _joined(folder, [contents[file] for file in files], schema)


def _joined(folder: Path, tables: Sequence[pa.Table], schema: pa.Schema | None) -> pa.Table:
    known = [] if schema is None else [schema.empty_table()]
    if not tables:
        return known[0] if known else pa.schema([]).empty_table()
    try:
        return pa.concat_tables([*tables, *known], promote_options="default" if known else "none")
    except pa.ArrowException as error:
        raise ResultsError(f"The results in {folder} cannot be read: {error}") from error


def _read_file(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, partitioning=None)
    except pa.ArrowInvalid as error:
        raise ResultsError(f"{file} is not a readable Parquet file: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResultsError(f"{file} cannot be read: {error}") from error


def is_merged(name: str) -> bool:
    """Whether the file of that name replaces others."""
    return name.startswith("compact-")


def stamps(name: str) -> tuple[int, int]:
    """The first stamp of what the file of that name holds or replaces, and the file's own, which is the last.

    A merged file's own is the one after that of the newest file it replaces.
    """
    pieces = [int(piece) if piece.isdecimal() else 0 for piece in name.removesuffix(".parquet").split("-")]
    _, own, first, *_ = [*pieces, 0, 0]
    return (first if is_merged(name) else own), own


def _live_files(folder: Path) -> list[Path]:
    """The files that count, in the order of their rows: those no merged file replaces."""
    names = _list(folder)
    # A look at a folder that changes meanwhile may miss both a merged file and what it replaced; the next one does not.
    while not names >= (merged := set(filter(is_merged, again := _list(folder)))):
        names = again
    spans = [stamps(name) for name in merged]
    replaced = {name for name in names for first, own in spans if first <= stamps(name)[1] < own}
    return [folder / name for name in sorted(names - replaced)]


def _list(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.parquet")}


class Table:
    """Appends rows to one table folder; one writer at a time."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._waiting: list[Mapping[str, Any]] = []
        self._flushed_at = time.monotonic()
        self._parts: dict[Path, pa.Table] = {}
        """Batches that this writer made files of and did not merge yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self._finish_removals()
        self._stamp = max((stamps(file.name)[1] for file in _live_files(folder)), default=0)

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
            # Rising, whatever becomes of the clock, with a stamp left for the merged file of all before.
            self._stamp = max(time.time_ns(), self._stamp + 2)
            self._parts[self._publish(rows, f"part-{self._stamp:020d}")] = rows
            self._waiting = []
            if len(self._parts) > MOST_PARTS:
                self._merge(self._newest()[:-1])  # The newest file stays: who follows the table can have read the rest.

    def flush_if_due(self) -> None:
        """Flush when the oldest queued rows have waited :data:`FLUSH_INTERVAL_S`."""
        if time.monotonic() - self._flushed_at >= FLUSH_INTERVAL_S:
            self.flush()

    def compact(self, keep: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> None:
        """Merge all files into one, with the rows that ``keep`` returns."""
        self.flush()
        files = _live_files(self._folder)
        if files:
            self._merge(files, keep)

    def read(self) -> pa.Table:
        """All rows written so far."""
        self.flush()
        return read_table(self._folder, self._schema)

    def _newest(self) -> list[Path]:
        """The batches, and before them the merged files that are no larger than all that come after."""
        chosen: list[Path] = []
        rows = 0
        for file in reversed(_live_files(self._folder)):
            number = self._parts[file].num_rows if file in self._parts else pq.read_metadata(file).num_rows
            if is_merged(file.name) and number > rows:
                break
            chosen.append(file)
            rows += number
        return chosen[::-1]

    def _merge(self, files: Sequence[Path], keep: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> None:
        """Replace ``files``, between which no other lies, by one."""
        contents = [self._parts[file] if file in self._parts else _read_file(file) for file in files]
        rows = keep(_joined(self._folder, contents, self._schema)).replace_schema_metadata(self._schema.metadata)
        spans = [stamps(file.name) for file in files]
        own = max(last for _, last in spans) + 1
        self._stamp = max(self._stamp, own)
        self._publish(rows, f"compact-{own:020d}-{min(first for first, _ in spans):020d}")
        self._finish_removals()
        self._parts = {file: part for file, part in self._parts.items() if file not in files}

    def _publish(self, rows: pa.Table, name: str) -> Path:
        path = self._folder / f"{name}-{uuid.uuid4().hex[:8]}.parquet"
        return write_atomically(path, lambda stream: pq.write_table(rows, stream))

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
