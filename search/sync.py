"""``python -m search.sync run=<name>``: bring W&B to what a run's folder holds, now or while the search goes on."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console

from search.command_line import RunChoice, quoted_lists, run_command
from search.config import TrackingConfig, load_config
from search.console import sayer
from search.errors import log_to

HELP = """\
Bring W&B to what a run's folder holds: its sweep, a run a trial, and the search with its front and report.
What is there already is not sent again, so it can be run at any time and as often as one likes: for a search that was
offline, one that W&B failed, or one whose nodes have no network (with follow=true beside it, where there is one).

  python -m search.sync [run=NAME] [runs=DIR] [storage=URI] [follow=true] [project=NAME] [entity=NAME]

  run=NAME       name of the run; default: the latest
  runs=DIR       folder of all runs; default: runs
  storage=URI    bring the run from there first
  follow=true    go on until the search ends
  project=NAME   W&B project; default: tracking.project of the run
  entity=NAME    W&B user or team; default: tracking.entity of the run, else the account's

Example
  python -m search.sync run=quickstart-20260101-120000
"""


@dataclass(frozen=True, kw_only=True)
class SyncConfig(RunChoice):
    """The settings of the command."""

    follow: bool = False
    """Go on until the search ends."""
    project: str | None = None
    """W&B project, by default that of the run's settings."""
    entity: str | None = None
    """W&B user or team, by default that of the run's settings."""


def sync(config: SyncConfig) -> None:
    """Send what is missing, and say what is there."""
    # W&B's client takes a second to import: a misspelt setting should not wait for it.
    from search.tracking.sitting import Sitting  # noqa: PLC0415

    run = config.find()
    own = load_config(run.config).tracking
    log_to(run.log)
    tracking = TrackingConfig(project=config.project or own.project, entity=config.entity or own.entity)
    console = Console()
    say = sayer(console)
    with console.status(f"Sending run {run.name} to W&B") as status:
        there = Sitting(
            run,
            tracking,
            online=True,
            follow=config.follow,
            say_address=lambda url: say(f"W&B sweep: {url}"),
            say_sent=lambda count: status.update(f"{count} trials sent"),
        ).mirror()
    say(f"{there} trials of run {run.name} are on W&B, with the front and the report.")


def main() -> None:
    """Entry point."""
    sys.argv[1:] = quoted_lists(sys.argv[1:])
    run_command("sync", SyncConfig, HELP, sync, "what was sent stays, and the same command sends the rest.")


if __name__ == "__main__":
    main()
