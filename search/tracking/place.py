"""Where a run is mirrored to, remembered in its folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from search.files import write_text_atomically
from search.run_folder import RunFolder


class TrackingError(RuntimeError):
    """W&B did not take something; the message says what, and why as far as W&B said."""


@dataclass(frozen=True)
class Place:
    """A project on a W&B server, and the run's sweep there."""

    host: str
    entity: str | None
    """As asked for; none is the account's default."""
    project: str
    key: str
    """Begins the ids of all its runs on W&B, so that runs of other searches never meet them."""
    path: str | None = None
    """``entity/project/id`` of the sweep, once it is known."""
    url: str | None = None
    """The sweep's page."""

    def run_id(self, name: str) -> str:
        """Id on W&B of the trial ``name``, or of the search's summary."""
        return f"{self.key}-{name}"

    @property
    def sweep_id(self) -> str | None:
        """The sweep's id alone."""
        return None if self.path is None else self.path.rpartition("/")[2]


def remembered_place(run: RunFolder) -> Place | None:
    """Where the run was mirrored to last; none if nowhere."""
    file = _memory(run)
    return Place(**json.loads(file.read_text())) if file.exists() else None


def _memory(run: RunFolder) -> Path:
    return run.wandb / "place.json"


def remember(run: RunFolder, place: Place) -> Place:
    """Write the place down, durably; returns it."""
    run.wandb.mkdir(parents=True, exist_ok=True)
    write_text_atomically(_memory(run), json.dumps(dataclasses.asdict(place), indent=1))
    return place
