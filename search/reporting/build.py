"""Writing the report of a run: one page that opens from disk, and the front as data, text and pictures beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from search.files import write_atomically
from search.reporting.figures import write_pareto_figure
from search.reporting.front_files import front_markdown, write_front_csv, write_front_parquet
from search.reporting.page import render_page
from search.reporting.question import answer_question
from search.reporting.record import Record, read_record
from search.reporting.report_json import report_json
from search.reporting.summary import summarise
from search.run_folder import RunFolder


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a report lie."""

    page: Path
    beside: tuple[Path, ...]
    """Everything but the page."""


def build_report(run: RunFolder, record: Record | None = None) -> ReportFiles:
    """Write the report of ``run`` from its folder alone; each file appears whole or not at all.

    Args:
        run: the run.
        record: what :func:`read_record` read of it, when that was done already.

    Raises:
        RunError: the folder is not that of a run.
        ResultsError: its Parquet tables cannot be read.
        OSError: the report cannot be written.
    """
    record = record or read_record(run)
    page = render_page(record).encode()
    beside = _beside(record)
    run.report.mkdir(parents=True, exist_ok=True)
    return ReportFiles(
        page=write_atomically(run.report / "index.html", lambda stream: stream.write(page)),
        beside=tuple(write_atomically(run.report / name, write) for name, write in beside.items()),
    )


def _beside(record: Record) -> dict[str, Callable[[BinaryIO], object]]:
    """Name of each file beside the page, and what writes it."""
    summary = summarise(record)
    markdown = front_markdown(record, summary).encode()
    machine = report_json(record, summary, answer_question(record)).encode()
    return {
        "front.csv": lambda stream: write_front_csv(record.front, stream),
        "front.parquet": lambda stream: write_front_parquet(record.front, stream),
        "front.md": lambda stream: stream.write(markdown),
        "pareto.png": lambda stream: write_pareto_figure(record, stream),
        "pareto.svg": lambda stream: write_pareto_figure(record, stream, "svg"),
        "report.json": lambda stream: stream.write(machine),
    }
