"""The search's side of tracking: keeps the mirroring process going, and waits for it at the end, but not for long."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from search.config import TrackingConfig
from search.run_folder import RunFolder
from search.tracking.place import remembered_place

FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
"""Before a mirroring process that failed is followed by another; the pause doubles."""
LOOK_S = 0.2
REASON = "Tracking ended: "
"""Begins the line of the process's output that says what went wrong."""


class Tracking:
    """Mirrors a search to W&B in a process of its own, and in another one when that fails."""

    def __init__(self, run: RunFolder, tracking: TrackingConfig, mode: str, say: Callable[[str], None]) -> None:
        self._run, self._mode, self._say = run, mode, say
        self._drain_s = tracking.drain_s
        self._ended = threading.Event()
        self._complete, self._said = False, False
        self._process: subprocess.Popen[bytes] | None = None
        run.wandb.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._keep_going, name="tracking", daemon=True)
        self._thread.start()

    def close(self) -> str:
        """The search ended and its status says so: let W&B take the rest, within bounds; returns how that went."""
        self._ended.set()
        self._thread.join(self._drain_s)
        in_time = not self._thread.is_alive()
        self._kill()
        if self._complete:
            place = remembered_place(self._run)
            assert place is not None
            return str(place.url) if self._mode == "online" else f"{self._run.wandb}. {self._upload_hint()}"
        reason = self._last_words() if in_time else f"W&B did not take everything within {self._drain_s:g} s"
        return f"{reason}. {self._upload_hint()}"

    def _keep_going(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._mirror():
            if self._ended.is_set():
                return
            self._ended.wait(pause_s)  # The end of the search cuts it short, for a last attempt.
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _mirror(self) -> bool:
        """Whether one process mirrored the search to its end."""
        command = [sys.executable, "-m", "search.tracking", str(self._run.path), "--mode", self._mode]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the search, and its share of the machine can be made small.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        while self._process.poll() is None:
            self._say_address()
            time.sleep(LOOK_S)
        self._say_address()
        self._complete = self._process.returncode == 0
        return self._complete

    def _say_address(self) -> None:
        place = None if self._said else remembered_place(self._run)
        if place is not None and place.url is not None and self._mode == "online":
            self._said = True
            self._say(f"W&B sweep: {place.url}")

    def _kill(self) -> None:
        """End the process with W&B's own service, which has a session of its own and waits for servers for minutes.

        What it still has would arrive on top of what was sent by then, once the server is back.
        """
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            mirroring = psutil.Process(self._process.pid)
            for process in [*mirroring.children(recursive=True), mirroring]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def _last_words(self) -> str:
        """Why the last process failed; what W&B's client says on top goes on after its end."""
        lines = self._log.read_text(errors="replace").splitlines()
        said = [line.removeprefix(REASON) for line in lines if line.startswith(REASON)]
        return (said or [line for line in lines if line.strip()] or ["The tracking process was killed"])[-1]

    @property
    def _log(self) -> Path:
        return self._run.wandb / "tracking.log"

    def _upload_hint(self) -> str:
        return f"Upload with: python -m search.sync {self._run.argument()}"
