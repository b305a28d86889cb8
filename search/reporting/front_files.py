"""The front as data: every column of ``trials`` for a spreadsheet and for programs, and a table to paste into text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from search.reporting.record import Record
from search.reporting.summary import Summary
from search.reporting.tables import PageTable, front_table
from search.reporting.uncertainty import uncertainty

_MARKUP = re.compile(r"([\\`*_\[\]~|$#])")


def write_front_csv(front: pa.Table, stream: BinaryIO) -> None:
    """Write the front as UTF-8 CSV with a header; null is an empty field, a list its JSON-like text."""
    flat = [_as_text(column) if pa.types.is_nested(column.type) else column for column in front.columns]
    pyarrow.csv.write_csv(pa.table(flat, names=front.column_names), stream)


def write_front_parquet(front: pa.Table, stream: BinaryIO) -> None:
    """Write the front as Parquet, with the types and metadata of ``trials``."""
    pyarrow.parquet.write_table(front, stream)


def front_markdown(record: Record, summary: Summary) -> str:
    """The answer, the commands that export its models and the front, in GitHub-flavoured Markdown."""
    sure = uncertainty(record)
    parts = [f"## {_plain(record.run.name)}", *map(_plain, [*summary.sentences, *summary.details])]
    if summary.picks:
        parts += [_code("\n".join(pick.export for pick in summary.picks)), _table(front_table(record))]
    doubts = "\n".join(f"- {_plain(sentence)}" for sentence in sure.doubts)
    return "\n\n".join([*parts, *([doubts] if doubts else []), *map(_plain, sure.notes)]) + "\n"


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], type=pa.string())


def _table(table: PageTable) -> str:
    """Numbers to the right, everything else to the left."""
    rules = ["---:" if column.numeric else ":---" for column in table.columns]
    lines = [
        _line(_plain(column.heading) for column in table.columns),
        _line(rules),
        *(_line(_plain(cell.text) for cell in row.cells) for row in table.rows),
    ]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that no Markdown reads as markup, on one line."""
    return html.escape(_MARKUP.sub(r"\\\1", " ".join(text.split())), quote=False)


def _code(text: str) -> str:
    """A block of commands, fenced by more backticks than it holds."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}sh\n{text}\n{fence}"
