"""What the loopback W&B server records: sweeps, runs and artifacts, and how the public API filters and sorts them."""

from __future__ import annotations

import base64
import json
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def storage_id(kind: str, name: str) -> str:
    """The identifier that W&B's mutations take, which is not the one in an address."""
    return base64.b64encode(f"{kind}:v1:{name}".encode()).decode()


@dataclass
class Sweep:
    """A sweep; ``states`` holds every state it had, in order."""

    id: str
    entity: str
    project: str
    config: dict[str, Any]
    display_name: str | None = None
    states: list[str] = field(default_factory=lambda: ["RUNNING"])
    created_at: str = field(default_factory=_now)

    @property
    def state(self) -> str:
        """The state it is in."""
        return self.states[-1]


@dataclass
class Run:
    """A run. Lines of its streams are kept by offset: a line that is sent again replaces the first."""

    id: str
    entity: str
    project: str
    name: str = ""
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    state: str = "running"
    stopped: bool = False
    upserts: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    stored_config: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=dict)
    created_at: str = field(default_factory=_now)

    @property
    def config(self) -> dict[str, Any]:
        """The values of the configuration, without W&B's own key."""
        return {key: entry["value"] for key, entry in self.stored_config.items() if key != "_wandb"}

    def lines(self, stream: str) -> list[str]:
        """The lines of ``history``, ``events`` or ``output``, in order of their offsets."""
        return [line for _, line in sorted(self.streams.get(stream, {}).items())]

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows that were logged, in order."""
        return [json.loads(line) for line in self.lines("history")]


@dataclass
class Artifact:
    """A version of an artifact; ``files`` by their path in it, ``state`` PENDING until committed."""

    id: str
    name: str
    type: str
    run: str | None
    entity: str
    project: str
    digest: str
    aliases: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes | None = None
    state: str = "PENDING"
    client_id: str | None = None
    version: int = 0
    description: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: str = field(default_factory=_now)


class UnsupportedFilterError(ValueError):
    """A filter uses an operator that this server does not know."""


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": lambda value, bound: value is not None and value > bound,
    "$gte": lambda value, bound: value is not None and value >= bound,
    "$lt": lambda value, bound: value is not None and value < bound,
    "$lte": lambda value, bound: value is not None and value <= bound,
    "$in": lambda value, choices: any(
        choice in value if isinstance(value, list) else choice == value for choice in choices
    ),
    "$nin": lambda value, choices: value not in choices,
    "$regex": lambda value, pattern: value is not None and re.search(pattern, value) is not None,
}
_COLUMNS = {
    "display_name": "name",
    "displayName": "name",
    "name": "id",
    "jobType": "job_type",
    "createdAt": "created_at",
}


def value_at(record: Run | Sweep, path: str) -> Any:
    """The value at a path of the public API, as ``state``, ``config.rate.value`` or ``summary_metrics.mIoU``."""
    column, _, rest = path.partition(".")
    if column not in ("config", "summary_metrics"):
        return getattr(record, _COLUMNS.get(column, column), None)
    assert isinstance(record, Run)
    value: Any = record.stored_config if column == "config" else record.summary
    while rest and isinstance(value, dict):
        if rest in value:
            return value[rest]
        key, _, rest = rest.partition(".")
        value = value.get(key)
    return value


def matches(record: Run | Sweep, wanted: dict[str, Any]) -> bool:
    """Whether a record passes a filter of the public API (MongoDB's notation)."""
    return all(_passes(record, key, condition) for key, condition in wanted.items())


def _passes(record: Run | Sweep, key: str, condition: Any) -> bool:
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)(matches(record, part) for part in condition)
    value = value_at(record, key)
    if not isinstance(condition, dict):
        return condition in value if isinstance(value, list) else bool(value == condition)
    if unknown := condition.keys() - _COMPARISONS.keys():
        raise UnsupportedFilterError(f"filter operators {sorted(unknown)} on {key!r}")
    return all(_COMPARISONS[name](value, bound) for name, bound in condition.items())


def ordered(runs: Iterable[Run], order: str | None) -> list[Run]:
    """Runs sorted by an order of the public API (``+created_at``, ``-summary_metrics.mIoU``), those without it last."""
    runs = sorted(runs, key=lambda run: run.created_at)
    path = (order or "+created_at").lstrip("+-")
    with_value = [run for run in runs if value_at(run, path) is not None]
    with_value.sort(key=lambda run: value_at(run, path), reverse=(order or "").startswith("-"))
    return with_value + [run for run in runs if value_at(run, path) is None]
