"""Copies what a search made durable on its machine to its storage, from a thread of its own.

Nothing waits for the storage but the end of the search: its results are safe on its own machine already. While the
storage is out of reach the search goes on, and the copy catches up later. :mod:`search.outbox` says what is copied,
and in which order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

from search.outbox import Outbox, Step
from search.run_folder import RunError, RunFolder
from search.storage import FIRST_PAUSE_S, LONGEST_PAUSE_S, Storage, StorageError
from search.stored_run import begin_sitting, read_sitting

LEAST_PAUSE_S = 1.0
"""Between two copies. After one that took longer the pause is as long: a slow storage gets fewer and larger ones."""
GIVE_UP_S = 120.0
"""How long the end of a search waits for a storage that takes nothing."""
TROUBLE_S = 15.0
"""People are told of a storage that fails for longer."""
_LOOK_S = 0.2


class Copier:
    """The copies of one sitting, until its block ends. Only :meth:`close` waits for the storage."""

    def __init__(self, run: RunFolder, runs: Storage, say: Callable[[str], None]) -> None:
        """Tell the storage that this machine goes on with the run.

        Args:
            run: held by this process.
            runs: the storage of all runs.
            say: tells people of a storage in trouble.

        Raises:
            StorageError: the storage cannot be used.
        """
        self.storage = runs.child(run.name)
        """Of the run."""
        self._run, self._place, self._say = run, runs.place, say
        self._sitting = begin_sitting(run, self.storage)
        self.outbox = Outbox(run, self.storage)
        """What to copy; it observes the search."""
        self._steps: list[Step] = []
        self._due = 0.0
        self._set_aside_at = self._copied_at = time.monotonic()
        self._failing_since: float | None = None
        self._trouble: str | None = None
        self._taken_over: str | None = None
        self._wanted, self._idle, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)

    def __enter__(self) -> Copier:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(FIRST_PAUSE_S)  # A transfer that hangs ends with the process.

    def offer(self) -> None:
        """Set the state of the run aside for copying, if it is time; the search calls this between two events.

        Raises:
            RunError: another machine goes on with the run.
        """
        if self._taken_over is not None:
            raise RunError(self._taken_over)
        if self._idle.is_set() and time.monotonic() >= self._due:
            self._submit(self.outbox.set_aside())

    def close(self) -> str | None:
        """Copy all there is, with the report and what belongs to it; returns what went wrong, for people.

        Waits as long as the storage takes something, and for :data:`GIVE_UP_S` while it does not.
        """
        try:
            if self._wait():
                self._submit(self.outbox.set_aside(whole=True))
                if self._wait():
                    return None
        except KeyboardInterrupt:
            self._trouble = self._trouble or "interrupted"
        if self._taken_over is not None:
            return self._taken_over
        behind_min = (time.monotonic() - self._copied_at) / 60
        return (
            f"{self._place} lacks the last {behind_min:.1f} minutes of run {self._run.name} ({self._trouble}). "
            f"All of it is in {self._run.path}. To copy the rest: python -m search.run {self._run.argument('resume')}"
        )

    def _submit(self, steps: list[Step]) -> None:
        self._due = time.monotonic() + LEAST_PAUSE_S
        self._steps, self._set_aside_at = steps, time.monotonic()
        if steps:
            self._idle.clear()
            self._wanted.set()
        else:
            self._copied_at = self._set_aside_at

    def _wait(self) -> bool:
        """Whether the copy under way came to its end; what failed before this call does not count."""
        began = time.monotonic()
        while not self._idle.wait(_LOOK_S):
            failing_since = self._failing_since
            if failing_since is not None and time.monotonic() - max(failing_since, began) > GIVE_UP_S:
                return False
            if self._taken_over is not None:
                return False
        return True

    def _work(self) -> None:
        """The thread."""
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._ended.is_set() or not self._insist(self._check_sitting):
                return
            for step in self._steps:
                if self._taken_over is not None or not self._insist(partial(self._copy, step)):
                    return
            self._copied_at = self._set_aside_at
            now = time.monotonic()
            self._due = now + max(LEAST_PAUSE_S, now - self._set_aside_at)
            self._idle.set()

    def _copy(self, step: Step) -> None:
        name, content = step
        if content is None:
            self.storage.remove(name)
        else:
            self.storage.put(name, content)
        self.outbox.done(step)

    def _check_sitting(self) -> None:
        """A machine that was taken for dead must not overwrite what another one makes of the run."""
        now = read_sitting(self.storage)
        if now is not None and now.id != self._sitting.id:
            self._taken_over = (
                f"Run {self._run.name} goes on elsewhere ({now.describe()}), so this search of it ends. What it had is "
                f"in {self._run.path}; what counts is in {self._place}."
            )

    def _insist(self, work: Callable[[], None]) -> bool:
        """Do it, again and again while the storage refuses; false when the search ended before it was done."""
        pause_s, told = FIRST_PAUSE_S, False
        while not self._ended.is_set():
            try:
                work()
            except StorageError as error:
                now = time.monotonic()
                self._trouble = str(error)
                self._failing_since = self._failing_since or now
                if not told and now - self._failing_since > TROUBLE_S:
                    told = True
                    why, place = self._trouble.rstrip("."), self._run.path
                    self._say(f"{why}. The search goes on; its results are in {place}, and are copied later.")
            else:
                self._failing_since = self._trouble = None
                if told:
                    self._say(f"The storage {self._place} takes results again.")
                return True
            self._ended.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return False
