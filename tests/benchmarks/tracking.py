"""What W&B costs a search: whatever its server does (``faults``), and with a thousand trials (``scale``).

``python tests/benchmarks/tracking.py faults`` runs the same real search with a healthy server, with each of seven
faults and, between each two, without tracking. Every line has the seconds from first start to last end of its trials,
as a ratio to the untracked searches before and after, whether every mIoU was the same, and how long W&B was waited for
at the end. ``scale`` plays a search without training, with and without tracking: time per report, and the most memory
and open files of the process beside it. The server is a loopback stand-in in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from search import columns
from search.run_folder import RunFolder
from trainers.profiling import cpu_model

TOOLS = Path(__file__).parents[1] / "search"
FAULTS: dict[str, dict[str, Any] | None] = {
    "healthy": {},
    "unreachable": None,
    "dying": {},
    "401": {"status": 401},
    "403": {"status": 403},
    "429": {"status": 429},
    "500": {"status": 500},
    "hanging": {"hang": True},
}
SEARCH = ["space=quickstart", "data.height=48", "data.width=64", "training.precision=fp32"]
SEARCH += ["sampler.name=random", "scheduler.name=none"]
"""What is drawn and trained does not depend on which trial ends first."""


class Server:
    """The stand-in for W&B, in a process of its own."""

    def __init__(self, fault: dict[str, Any] | None) -> None:
        command = [sys.executable, str(TOOLS / "wandb_server.py")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url, self._key = self._process.stdout.readline().split()
        if fault is None:
            self.close()
        else:
            requests.post(f"{self.url}/-/fault", json=fault, timeout=5)

    def environment(self) -> dict[str, str]:
        """Of a search that tracks with it."""
        known = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self._key, "WANDB_ERROR_REPORTING": "false"}
        return os.environ | known | {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1"}

    def die_with_rows(self) -> None:
        """Wait until it has history, then die."""
        while not any(run["history"] for run in self.recorded()["runs"].values()):
            time.sleep(0.5)
        self.close()

    def recorded(self) -> dict[str, Any]:
        """What arrived."""
        answer: dict[str, Any] = requests.get(f"{self.url}/-/recorded", timeout=60).json()
        return answer

    def close(self) -> None:
        """Cut every connection."""
        self._process.kill()
        self._process.wait()


def search_once(folder: Path, name: str, mode: str, environment: dict[str, str], settings: list[str]) -> dict[str, Any]:
    """Run the real search; its seconds of trials, its results, and the seconds W&B was waited for."""
    command = [sys.executable, "-m", "search.run", *SEARCH, *settings, f"run={name}", f"tracking.mode={mode}"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = None
    for line in process.stdout:
        reported = time.perf_counter() if line.startswith("Results:") else reported
    assert process.wait() == 0
    assert reported is not None
    drain_s = time.perf_counter() - reported
    run = RunFolder(folder / "runs" / name)
    trials = run.read_trials().to_pylist()
    ended, started = max(row[columns.ENDED_AT] for row in trials), min(row[columns.STARTED_AT] for row in trials)
    miou = {(row[columns.TRIAL_ID], row[columns.EPOCH]): row[columns.MIOU] for row in run.read_epochs().to_pylist()}
    return {"search_s": (ended - started).total_seconds(), "miou": miou, "drain_s": drain_s}


def faults(given: argparse.Namespace) -> None:
    """See the top of the file."""
    folder = Path(tempfile.mkdtemp())
    settings = [f"num_trials={given.trials}", f"training.epochs={given.epochs}", "tracking.drain_s=15"]
    search_once(folder, "warm-up", "off", dict(os.environ), settings)  # packs the data, measures latency
    before = search_once(folder, "off", "off", dict(os.environ), settings)
    wanted = list(given.only or FAULTS)
    for pair in (wanted[index : index + 2] for index in range(0, len(wanted), 2)):
        tracked = {fault: search_with(fault, folder, settings) for fault in pair}
        after = search_once(folder, f"off-after-{pair[-1]}", "off", dict(os.environ), settings)
        for fault, search in tracked.items():
            line = {
                "fault": fault,
                "search_s": round(search["search_s"], 1),
                "untracked_s": [round(before["search_s"], 1), round(after["search_s"], 1)],
                "ratio": round(search["search_s"] / statistics.mean((before["search_s"], after["search_s"])), 3),
                "same_results": search["miou"] == before["miou"] == after["miou"],
                "wait_at_end_s": round(search["drain_s"] - after["drain_s"], 1),
            }
            print(json.dumps(line | {"device": cpu_model()}), flush=True)
        before = after
    shutil.rmtree(folder)


def search_with(fault: str, folder: Path, settings: list[str]) -> dict[str, Any]:
    """Run the real search, tracked by a server with that fault."""
    server = Server(FAULTS[fault])
    if fault == "dying":
        threading.Thread(target=server.die_with_rows, daemon=True).start()
    try:
        return search_once(folder, fault, "online", server.environment(), settings)
    finally:
        server.close()


@contextmanager
def watched(pid: int) -> Iterator[dict[str, int]]:
    """The most memory and open files that the process beside the search ``pid`` and W&B's service have, together."""
    most = {"memory_mb": 0, "open_files": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            beside = _descendants(pid)
            most["memory_mb"] = max(most["memory_mb"], sum(map(_memory_kb, beside)) // 1000)
            most["open_files"] = max(most["open_files"], sum(map(_open_files, beside)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield most
    done.set()
    watcher.join()


def _descendants(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [other for child in map(int, found) for other in (child, *_descendants(child))]


def _memory_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    except OSError:
        return 0


def scale(given: argparse.Namespace) -> None:
    """See the top of the file."""
    folder = Path(tempfile.mkdtemp())
    for mode in ("off", "online"):
        server = Server({})
        numbers = ["--trials", given.trials, "--epochs", given.epochs, "--concurrent", given.concurrent]
        command = [sys.executable, str(TOOLS / "untrained_search.py"), str(folder / mode), *map(str, numbers)]
        command += ["--mode", mode, "--drain-s", "600", "--pause-s", str(given.pause_s)]
        process = subprocess.Popen(command, env=server.environment(), stdout=subprocess.PIPE, text=True)
        with watched(process.pid) as most:
            printed, _ = process.communicate()
        times = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
        runs = server.recorded()["runs"].values()
        line = {
            "mode": mode,
            "trials": given.trials,
            "concurrent": given.concurrent,
            "reports": len(times["report_s"]),
            "report_ms_median": round(1000 * statistics.median(times["report_s"]), 3),
            "report_ms_p99": round(1000 * statistics.quantiles(times["report_s"], n=100)[98], 3),
            "search_s": round(times["search_s"], 1),
            "beside": most if mode == "online" else None,
            "runs_there": len(runs),
            "rows_there": sum(len(run["history"]) for run in runs if run["job_type"] == "trial"),
            "said": printed.splitlines()[-1] if mode == "online" else None,
        }
        print(json.dumps(line | {"device": cpu_model()}), flush=True)
        server.close()
    shutil.rmtree(folder)


def main() -> None:
    """Print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    of_faults = commands.add_parser("faults")
    of_faults.add_argument("--trials", type=int, default=10)
    of_faults.add_argument("--epochs", type=int, default=4)
    of_faults.add_argument("--only", nargs="+", choices=FAULTS)
    of_faults.set_defaults(run=faults)
    of_scale = commands.add_parser("scale")
    of_scale.add_argument("--trials", type=int, default=1000)
    of_scale.add_argument("--epochs", type=int, default=10)
    of_scale.add_argument("--concurrent", type=int, default=100)
    of_scale.add_argument("--pause-s", type=float, default=1.0)
    of_scale.set_defaults(run=scale)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
