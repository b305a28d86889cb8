"""The front as data: every column of ``trials``, for a spreadsheet and for programs."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet


def write_front_csv(front: pa.Table, stream: BinaryIO) -> None:
    """Write the front as UTF-8 CSV with a header; null is an empty field, a list its JSON-like text."""
    flat = [_as_text(column) if pa.types.is_nested(column.type) else column for column in front.columns]
    pyarrow.csv.write_csv(pa.table(flat, names=front.column_names), stream)


def write_front_parquet(front: pa.Table, stream: BinaryIO) -> None:
    """Write the front as Parquet, with the types and metadata of ``trials``."""
    pyarrow.parquet.write_table(front, stream)


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], type=pa.string())
