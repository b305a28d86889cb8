"""``python -m search.report run=<name>``: write the report of a run from its folder alone."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.config import QUIET_LOGGING, check_overrides, quiet_hydra
from search.reporting import ReportFiles, build_report
from search.reporting.record import Record, read_record
from search.reporting.tables import front_table
from search.results import ResultsError
from search.run_folder import RunError, RunFolder, latest_run
from trainers.config import ConfigError, schema

_HELP = """\
Write the report of a run again, from its folder alone.

  python -m search.report [run=NAME] [runs=DIR]

  run=NAME    name of the run; default: the latest
  runs=DIR    folder of all runs; default: runs

Example
  python -m search.report run=quickstart-20260101-120000
"""
_SHORT_TABLE = 6
"""Columns of the front that fit a terminal; the page has all."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The settings of the command."""

    run: str | None = None
    """Name of the run, by default the latest."""
    runs: str = "runs"
    """Folder of all runs."""


def find_run(runs: Path, name: str | None) -> RunFolder:
    """The run called ``name``, or the one started last.

    Raises:
        RunError: there is none; the message lists those that exist.
    """
    if name is None:
        return latest_run(runs)
    run = RunFolder.named(runs, name)
    if not run.path.is_dir():
        raise RunError(f"There is no run {name!r} in {runs}. {_others(runs, name)}")
    return run


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


def say(files: ReportFiles, record: Record, console: Console) -> None:
    """Print the front and where the report lies."""
    print_front(record, console)
    console.print(Text(f"\nReport: {files.page}"), soft_wrap=True)
    console.print(Text(f"Beside it: {', '.join(path.name for path in files.beside)}"), soft_wrap=True)


def _others(runs: Path, name: str) -> str:
    names = sorted(path.parent.name for path in runs.glob("*/config.yaml"))
    if not names:
        return "There are no runs there: set runs=<folder>, or start one with: python -m search.run"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}There are: {', '.join(names)}."


def _register() -> DictConfig:
    node = schema(ReportConfig)
    store = ConfigStore.instance()
    store.store(name="report_schema", node=node)
    defaults = ["report_schema", "_self_", *QUIET_LOGGING]
    store.store(name="report", node={"defaults": defaults, "hydra": quiet_hydra("report", _HELP)})
    return node


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """As ``search.errors`` does for a search, without its import of everything a search needs (torch, Ray)."""
    try:
        yield
    except (RunError, ResultsError, ConfigError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


@hydra.main(version_base="1.3", config_path=None, config_name="report")
def _run(node: DictConfig) -> None:
    with _errors_in_one_line():
        config = OmegaConf.to_object(node)
        assert isinstance(config, ReportConfig)
        run = find_run(Path(config.runs), config.run)
        record = read_record(run)
        say(build_report(run, record), record, Console())


def main() -> None:
    """Entry point."""
    with _errors_in_one_line():
        check_overrides(sys.argv[1:], _register())
    _run()


if __name__ == "__main__":
    main()
