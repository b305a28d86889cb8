"""The front and the answer to the question in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search import columns
from search.reporting.question import answer_question
from search.reporting.record import Record
from search.reporting.tables import ARCHITECTURE_LABEL, front_table
from search.reporting.uncertainty import PLACE, uncertainty

_FIGURES = (columns.MIOU, columns.MIOU_STD, columns.LATENCY_MS, columns.SIZE_MB)
_SHORT_TABLE = (columns.TRIAL_ID, ARCHITECTURE_LABEL, *_FIGURES, PLACE)
"""Columns of the front that fit a terminal; the page has all."""
_FEW_DOUBTS = 3
"""Members whose place could be luck; the page has all."""
_FEW_SENTENCES = 12
"""Of the answer; the page has all."""


def print_front(record: Record, console: Console) -> None:
    """Print the front as a short table, the fastest first, whose place could be luck, and the question's answer."""
    _print_table(record, console)
    _print_answer(record, console)


def _print_table(record: Record, console: Console) -> None:
    table = front_table(record)
    if not table.rows:
        console.print("There is no front: no completed trial has mIoU, latency and size.")
        return
    keys = [column.key for column in table.columns]
    places = [keys.index(key) for key in _SHORT_TABLE if key in keys]
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in [table.columns[place] for place in places]:
        whole = column.key != ARCHITECTURE_LABEL  # a name may take two lines; a figure cut short is none
        shown.add_column(Text(column.heading), justify="right" if column.numeric else "left", no_wrap=whole)
    for row in table.rows:
        shown.add_row(*[Text(row.cells[place].text) for place in places])
    console.print(shown)
    _print_doubts(record, console)


def _print_doubts(record: Record, console: Console) -> None:
    doubts = uncertainty(record).doubts
    for sentence in doubts[:_FEW_DOUBTS]:
        console.print(Text(f"- {sentence}"), soft_wrap=True)
    if len(doubts) > _FEW_DOUBTS:
        console.print(f"{len(doubts) - _FEW_DOUBTS} more places could be luck; the report says why.")


def _print_answer(record: Record, console: Console) -> None:
    answer = answer_question(record)
    console.print(Text(f"\n{answer.title}", style="bold"), soft_wrap=True)
    for sentence in answer.sentences[:_FEW_SENTENCES]:
        console.print(Text(f"- {sentence}"), soft_wrap=True)
    if len(answer.sentences) > _FEW_SENTENCES:
        console.print(f"{len(answer.sentences) - _FEW_SENTENCES} more comparisons are in the report.")
