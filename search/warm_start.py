"""What earlier runs know already: those of their trials that a new search could have drawn itself, for its sampler.

A trial counts if it went to its full budget under the settings of the new search: at the same data, number of epochs
and so on, with parameters that the new space can draw. What earlier runs know of trials that were stopped early is not
used, since a value after few epochs misleads beside values of the full budget. A configuration that breaks a limit of
the new search is told as infeasible, also if the earlier run never trained it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import columns
from search.config import ConstraintsConfig
from search.files import write_text_atomically
from search.repeats import Row
from search.reporting.record import Record, is_number
from search.run_folder import RunError
from search.sampler import Earlier
from search.space_checks import list_grid
from spaces import Assignment, Space
from trainers.choices import READ_ONLY_WHEN, fields_read
from trainers.config import TrialConfig
from trainers.settings import ConfigError

_SAME_DATA = {
    "name": "data set",
    "classes": "classes",
    "num_train": "number of training images",
    "num_val": "number of validation images",
    "height": "image height",
    "width": "image width",
}
"""What makes two mIoUs comparable, of ``data.json``, as it is called in a message."""
_SAME_LATENCY = {
    columns.DEVICE_NAME: "device",
    columns.BATCH: "batch",
    columns.PRECISION: "precision",
    columns.MEMORY_FORMAT: "memory format",
    columns.COMPILED: "compilation",
}
"""What makes two latencies comparable, of the table ``architectures``; null was not recorded yet."""
_WITHOUT_EFFECT = ("training.seed", "training.device", "data.root", "data.classes", "data.cache", "data.on_error")
"""Settings that do not make a trial another one; what lies at these paths is compared itself."""
_SHOWN = 3
"""Examples in a message."""


@dataclass(frozen=True)
class Here:
    """The search that earlier runs are to help."""

    space: Space
    base: TrialConfig
    constraints: ConstraintsConfig
    data: Mapping[str, Any]
    """As in ``data.json``; of the ``references``, those of constant predictions."""
    latency: Mapping[str, Any]
    """Columns of the table ``architectures``: under which conditions latency is measured."""


@dataclass(frozen=True)
class WarmStart:
    """What the sampler of a new search is told, and a sentence for people about each earlier run."""

    trials: tuple[Earlier, ...] = ()
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write what :meth:`load` reads: the earlier runs may be gone when the new one is resumed."""
        write_text_atomically(path, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> WarmStart:
        """What was saved there; nothing where nothing was."""
        if not path.exists():
            return cls()
        content = json.loads(path.read_text())
        return cls(tuple(Earlier(**trial) for trial in content["trials"]), tuple(content["notes"]))


def choose_trials(records: Sequence[Record], here: Here, *, grid: bool) -> WarmStart:
    """The trials of earlier runs that the sampler of a search can learn from, with the mean of each one's repeats.

    Args:
        records: the earlier runs.
        here: the search.
        grid: whether it draws each point of its space once.

    Raises:
        RunError: a run named twice or on other data, a latency that was measured otherwise, no trial to learn from, or
            a grid of which none is left to try.
    """
    names = [record.run.name for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"warm_start={','.join(names)} names {', '.join(twice)} more than once.")
    for record in records:
        _require_comparable(record, here)
    chosen = [_choose(record, here) for record in records]
    start = WarmStart(tuple(trial for trials, _ in chosen for trial in trials), tuple(note for _, note in chosen))
    if not start.trials:
        raise RunError(f"warm_start={','.join(names)} has nothing to tell this search. {'. '.join(start.notes)}.")
    known = [trial.assignment for trial in start.trials]
    if grid and all(point in known for point in list_grid(here.space)):
        raise RunError(f"Nothing is left to try: warm_start={','.join(names)} has all of the grid.")
    return start


def _require_comparable(record: Record, here: Here) -> None:
    name = record.run.name
    for key, noun in _SAME_DATA.items():
        if record.data[key] != here.data[key]:
            there, ours = (_brief(data[key]) for data in (record.data, here.data))
            raise RunError(f"warm_start needs runs on the same data: the {noun} of {name} is {there}, here {ours}.")
    known = {entry["label"]: entry["miou"] for entry in record.data["references"]}
    for entry in here.data["references"]:
        label, ours = entry["label"], entry["miou"]
        if not math.isclose(known.get(label, math.nan), ours, rel_tol=1e-9):
            there = f"{known[label]:.6f} there" if label in known else "unknown there"
            raise RunError(
                f"warm_start needs runs on the same validation images: those of {name} are others, since the mIoU of "
                f"{label!r} is {there}, {ours:.6f} here."
            )
    used = {(row[columns.ARCHITECTURE], row[columns.LATENCY_MS]) for row in record.trials}
    measured = [row for row in record.architectures if (row[columns.ARCHITECTURE], row[columns.LATENCY_MS]) in used]
    for key, noun in _SAME_LATENCY.items():
        others = sorted({str(row[key]) for row in measured if row[key] not in (None, here.latency[key])})
        if others:
            raise RunError(
                f"warm_start needs latencies measured alike: the {noun} of {name} is {', '.join(others)}, "
                f"here {here.latency[key]}."
            )


def _brief(value: Any) -> str:
    return ", ".join(entry["name"] for entry in value) if isinstance(value, list) else str(value)


def _choose(record: Record, here: Here) -> tuple[list[Earlier], str]:
    """The trials of one run, and how many these are, and why the others are left out."""
    trials: list[Earlier] = []
    left_out: dict[str, list[str]] = {}
    for row in record.configurations:
        found = _earlier(record, row, here)
        if isinstance(found, Earlier):
            trials.append(found)
        else:
            left_out.setdefault(found[0], []).append(found[1])
    note = f"The sampler knows {len(trials)} of {len(record.configurations)} trials of run {record.run.name}"
    told = [f"{len(examples)} {reason}{_examples(examples)}" for reason, examples in left_out.items()]
    return trials, f"{note}; left out: {', '.join(told)}" if told else note


def _examples(examples: Sequence[str]) -> str:
    shown = [example for example in dict.fromkeys(examples) if example]
    more = ", ..." if len(shown) > _SHOWN else ""
    return f" ({', '.join(shown[:_SHOWN])}{more})" if shown else ""


def _earlier(record: Record, row: Row, here: Here) -> tuple[str, str] | Earlier:
    """What the sampler is told of a configuration; or why it is told nothing, with what exactly is the matter."""
    if row[columns.STATE] not in (columns.COMPLETED, columns.INFEASIBLE):
        return row[columns.STATE], ""
    config = TrialConfig.from_dict(json.loads(row[columns.CONFIG]))
    assignment = here.space.drawn_in(config.to_dict())
    obstacle = _obstacle(config, assignment, here)
    if obstacle is not None:
        return obstacle
    excess = here.constraints.excess(row)
    if row[columns.STATE] == columns.INFEASIBLE and not excess:
        return "infeasible there but not here", ""
    if not excess and not all(is_number(row[name]) for name in columns.OBJECTIVES):
        return "without an mIoU", ""
    objectives = {} if excess else {name: row[name] for name in columns.OBJECTIVES}
    return Earlier(f"{record.run.name}/{row[columns.TRIAL_ID]}", assignment, objectives, excess)


def _obstacle(config: TrialConfig, assignment: Assignment, here: Here) -> tuple[str, str] | None:
    """Why the search could not have drawn this trial, if it could not."""
    outside = [
        f"{parameter.path} {assignment[parameter.path]}"
        for parameter in here.space.parameters
        if parameter.path in assignment and not parameter.contains(assignment[parameter.path])
    ]
    if outside:
        return "outside the space", " and ".join(outside)
    try:
        differing = _differences(config, here.base.replace(assignment))
    except ConfigError as error:
        return "impossible here", str(error)
    return ("under other settings", " and ".join(differing)) if differing else None


def _differences(there: TrialConfig, here: TrialConfig) -> list[str]:
    """Settings that make the two other trials, for people."""
    theirs, ours = _effective(there), _effective(here)
    if here.training.precision == "auto":  # recorded is what it became
        theirs["training.precision"] = "auto"
    # A setting that only one of them reads hangs on another one that differs.
    both = [path for path in ours if path in theirs]
    return [f"{path} {theirs[path]} instead of {ours[path]}" for path in both if theirs[path] != ours[path]]


def _effective(trial: TrialConfig) -> dict[str, Any]:
    """The settings that decide what comes of a trial, by dotted path: without those that it does not read."""
    values = dict(_leaves(trial.to_dict()))
    idle = {path for path, (owner, needed) in READ_ONLY_WHEN.items() if values[owner] not in needed}
    model = {f"model.{name}": value for name, value in trial.model.identity().items()}
    if "weights" in fields_read(trial.model.architecture):
        model["model.weights"] = trial.model.weights
    others = {path: value for path, value in values.items() if not path.startswith("model.")}
    return model | {path: value for path, value in others.items() if path not in idle and path not in _WITHOUT_EFFECT}


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
