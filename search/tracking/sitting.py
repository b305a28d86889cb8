"""One sitting of mirroring a run to W&B: what is recorded, and until the search ends what it goes on to record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from filelock import FileLock, Timeout

from search.config import TrackingConfig, load_config
from search.run_folder import RUNNING, RunError, RunFolder
from search.tracking.client import renew_service, told_as_trouble
from search.tracking.follower import Follower
from search.tracking.login import probe, require_credentials
from search.tracking.mirror import Mirror
from search.tracking.place import Place, TrackingError
from search.tracking.summary import send_summary
from search.tracking.sweep import close_sweep, find_place, open_sweep
from spaces import Space

POLL_S = 1.0
"""Time between two looks at the record."""


@dataclass(frozen=True)
class Sitting:
    """What to mirror, where to, and for how long."""

    run: RunFolder
    tracking: TrackingConfig
    online: bool
    follow: bool = False
    """Whether to go on until the search ends."""
    say_address: Callable[[str], None] = lambda _: None
    """Told the address of the sweep."""
    say_sent: Callable[[int], None] = lambda _: None
    """Told the number of trials that W&B has whole, whenever it grows."""

    def mirror(self) -> int:
        """Do it; returns the number of trials that W&B has whole.

        Raises:
            TrackingError: W&B did not take everything.
            RunError: another process mirrors this run, or it did not start.
            ConfigError: nobody is logged in to W&B.
        """
        self.run.wandb.mkdir(parents=True, exist_ok=True)
        # A search that was killed and resumed at once finds the process beside its first self still busy.
        lock = FileLock(self.run.wandb / ".lock", timeout=-1 if self.follow else 0)
        try:
            with lock, told_as_trouble(self.run):
                return self._mirror()
        except Timeout as error:
            raise RunError(f"Another process sends run {self.run.name!r} to W&B right now.") from error

    def _mirror(self) -> int:
        config = load_config(self.run.config)
        space = Space.from_dict(config.space_name, config.space)
        place = self._open(space)
        mirror = Mirror(self.run, place, space, self.online, self.say_sent)
        follower = Follower(self.run)
        while True:
            status = self.run.read_status()  # before looking: what was recorded until it ended is seen below
            mirror.update(follower.poll())
            if mirror.spent:
                mirror.finish()
                renew_service()
                mirror, follower = Mirror(self.run, place, space, self.online, self.say_sent), Follower(self.run)
                continue
            if status != RUNNING or not self.follow:
                break
            time.sleep(POLL_S)
        mirror.finish()
        send_summary(self.run, place, self.online)
        if self.online:
            close_sweep(place, status)
        return len(mirror.sent)

    def _open(self, space: Space) -> Place:
        place = find_place(self.run, self.tracking)
        if not self.online:
            return place
        credentials = require_credentials()
        trouble = probe(credentials)
        if trouble is not None:
            raise TrackingError(trouble.text)
        place = open_sweep(self.run, place, space)
        self.say_address(str(place.url))
        return place
