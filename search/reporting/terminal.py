"""The front in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.reporting.record import Record
from search.reporting.tables import front_table

_SHORT_TABLE = 6
"""Columns of the front that fit a terminal; the page has all."""


def print_front(record: Record, console: Console) -> None:
    """Print the front as a short table, the fastest first."""
    table = front_table(record)
    if not table.rows:
        console.print("There is no front: no completed trial has mIoU, latency and size.")
        return
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in table.columns[:_SHORT_TABLE]:
        shown.add_column(Text(column.heading), justify="right" if column.numeric else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*[Text(cell.text) for cell in row.cells[:_SHORT_TABLE]])
    console.print(shown)
