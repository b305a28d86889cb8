"""The front and the answer to the question in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.reporting.question import answer_question
from search.reporting.record import Record
from search.reporting.tables import front_table

_SHORT_TABLE = 6
"""Columns of the front that fit a terminal; the page has all."""
_FEW_SENTENCES = 12
"""Of the answer; the page has all."""


def print_front(record: Record, console: Console) -> None:
    """Print the front as a short table, the fastest first, then the space's question and its answer."""
    _print_table(record, console)
    _print_answer(record, console)


def _print_table(record: Record, console: Console) -> None:
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


def _print_answer(record: Record, console: Console) -> None:
    answer = answer_question(record)
    console.print(Text(f"\n{answer.title}", style="bold"), soft_wrap=True)
    for sentence in answer.sentences[:_FEW_SENTENCES]:
        console.print(Text(f"- {sentence}"), soft_wrap=True)
    if len(answer.sentences) > _FEW_SENTENCES:
        console.print(f"{len(answer.sentences) - _FEW_SENTENCES} more comparisons are in the report.")
