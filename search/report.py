"""``python -m search.report run=<name>``: write the report of a run from its folder alone."""

from __future__ import annotations

import sys

from rich.console import Console

from search.command_line import RunChoice, quoted_lists, run_command
from search.console import sayer
from search.reporting.build import build_report
from search.reporting.merged import merge
from search.reporting.record import read_record
from search.reporting.terminal import print_front

HELP = """\
Write the report of a run again, from its folder alone; or one of several runs of one data set, with one front.

  python -m search.report [run=NAME[,NAME ...]] [runs=DIR] [storage=URI]

  run=NAME    name of the run; default: the latest. Of several, the report is written to runs/NAME+NAME/report
  runs=DIR    folder of all runs; default: runs
  storage=URI bring the run from there first, without its models

Examples
  python -m search.report run=quickstart-20260101-120000
  python -m search.report run=backbones-a,backbones-b
"""


def report(config: RunChoice) -> None:
    """Write the report, print the front, and say where it is."""
    names = (config.run or "").split(",")
    runs = [config.find_named(name) for name in names] if len(names) > 1 else [config.find()]
    records = [read_record(run) for run in runs]
    record = merge(records) if len(records) > 1 else records[0]
    files = build_report(record.run, record)
    console = Console()
    print_front(record, console)
    say = sayer(console)
    say(f"\nReport: {files.page}")
    say(f"Beside it: {', '.join(path.name for path in files.beside)}")


def main() -> None:
    """Entry point."""
    sys.argv[1:] = quoted_lists(sys.argv[1:])
    run_command("report", RunChoice, HELP, report, "a report that was there stays.")


if __name__ == "__main__":
    main()
