"""``python -m search.report run=<name>``: write the report of a run from its folder alone."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from search.command_line import RunChoice, check_overrides, register_command
from search.errors import errors_in_one_line
from search.reporting.build import build_report
from search.reporting.record import read_record
from search.reporting.terminal import print_front

HELP = """\
Write the report of a run again, from its folder alone.

  python -m search.report [run=NAME] [runs=DIR]

  run=NAME    name of the run; default: the latest
  runs=DIR    folder of all runs; default: runs

Example
  python -m search.report run=quickstart-20260101-120000
"""


@hydra.main(version_base="1.3", config_path=None, config_name="report")
def _run(node: DictConfig) -> None:
    with errors_in_one_line():
        config = OmegaConf.to_object(node)
        assert isinstance(config, RunChoice)
        record = read_record(config.find())
        files = build_report(record.run, record)
        console = Console()
        print_front(record, console)
        console.print(Text(f"\nReport: {files.page}"), soft_wrap=True)
        console.print(Text(f"Beside it: {', '.join(path.name for path in files.beside)}"), soft_wrap=True)


def main() -> None:
    """Entry point."""
    with errors_in_one_line():
        check_overrides(sys.argv[1:], register_command("report", RunChoice, HELP))
    _run()


if __name__ == "__main__":
    main()
