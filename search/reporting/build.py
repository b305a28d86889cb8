"""Writing the report of a run: one page that opens from disk, and the front as CSV, Parquet and a picture beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from search.files import write_atomically
from search.reporting.figures import write_pareto_figure
from search.reporting.front_files import write_front_csv, write_front_parquet
from search.reporting.page import render_page
from search.reporting.record import Record, read_record
from search.run_folder import RunFolder


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a report lie."""

    page: Path
    front_csv: Path
    front_parquet: Path
    figure: Path

    @property
    def beside(self) -> tuple[Path, ...]:
        """Everything but the page."""
        return self.front_csv, self.front_parquet, self.figure


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
    run.report.mkdir(parents=True, exist_ok=True)
    folder = run.report
    return ReportFiles(
        page=write_atomically(folder / "index.html", lambda stream: stream.write(page)),
        front_csv=write_atomically(folder / "front.csv", lambda stream: write_front_csv(record.front, stream)),
        front_parquet=write_atomically(
            folder / "front.parquet", lambda stream: write_front_parquet(record.front, stream)
        ),
        figure=write_atomically(folder / "pareto.png", lambda stream: write_pareto_figure(record, stream)),
    )
