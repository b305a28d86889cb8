"""The process beside a search: ``python -m search.tracking <folder of the run> --mode online``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from search.config import load_config
from search.errors import USER_ERRORS
from search.run_folder import RunFolder
from search.tracking.beside import REASON
from search.tracking.sitting import Sitting


def main() -> None:
    """Follow the search until it ends; what went wrong, if something did, is said in a line of the output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--mode", choices=("online", "offline"), required=True)
    arguments = parser.parse_args()
    os.nice(19)  # Trials come first: on a busy machine W&B waits.
    run = RunFolder(arguments.run)
    try:
        tracking = load_config(run.config).tracking
        Sitting(run, tracking, online=arguments.mode == "online", follow=True).mirror()
    except USER_ERRORS as error:
        print(f"{REASON}{error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
