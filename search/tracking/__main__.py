"""The process beside a search: ``python -m search.tracking <folder of the run> --mode online``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path


def main() -> None:
    """Follow the search until it ends; what went wrong, if something did, is said in a line of the output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--mode", choices=("online", "offline"), required=True)
    arguments = parser.parse_args()
    let_others_go_first()
    # Only now: reading in W&B's client takes seconds of a core.
    from search.config import load_config  # noqa: PLC0415
    from search.errors import USER_ERRORS  # noqa: PLC0415
    from search.run_folder import RunFolder  # noqa: PLC0415
    from search.tracking.beside import REASON  # noqa: PLC0415
    from search.tracking.sitting import Sitting  # noqa: PLC0415

    run = RunFolder(arguments.run)
    try:
        tracking = load_config(run.config).tracking
        Sitting(run, tracking, online=arguments.mode == "online", follow=True).mirror()
    except USER_ERRORS as error:
        print(f"{REASON}{error}", flush=True)
        sys.exit(1)


def let_others_go_first() -> None:
    """Take only what trials leave of a busy machine, themselves of niceness 15 as Ray has it."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # Where Linux shares the machine between sessions first, this one is small.
        Path("/proc/self/autogroup").write_text("19")


if __name__ == "__main__":
    main()
