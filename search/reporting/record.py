"""Everything a report shows, read once from the run's folder."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import OmegaConf
from yaml import YAMLError

from search import columns, objectives
from search.objectives import Row
from search.repeats import configurations, configurations_table, split_id
from search.results import last_rows
from search.run_folder import RunError, RunFolder
from spaces import Space, SpaceError
from trainers.choices import fields_read
from trainers.config import TrialConfig
from trainers.settings import ConfigError

_DATA_KEYS = ("name", "question", "classes", "num_train", "num_val", "height", "width", "notes", "references")
_BEST_OF_EPOCH = (columns.MIOU, columns.MIOU_FOREGROUND, columns.PIXEL_ACCURACY, columns.MEAN_CLASS_ACCURACY)
_STILL_OPEN = "no end was recorded: the search was interrupted, or still runs"
_USUAL = "standard"
UNKNOWN_ARCHITECTURE = "unknown architecture"


@dataclass(frozen=True)
class Record:
    """One run, as far as its report is concerned. ``trials`` includes the interrupted ones, in the order drawn."""

    run: RunFolder
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    schema_version: int
    trials: list[Row]
    epochs: pa.Table
    """The ``epochs`` table, each (trial, epoch) once."""
    curves: Mapping[str, list[Row]]
    """Trial to its ``epochs`` rows, by epoch."""
    architectures: list[Row]
    front: pa.Table
    hypervolume: float
    reference_point: Mapping[str, float]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return [entry["name"] for entry in self.data["classes"]]

    @cached_property
    def configurations(self) -> list[Row]:
        """One row a drawn configuration: its runs under several seeds averaged (:mod:`search.repeats`)."""
        return configurations(self.trials)

    @property
    def repeated(self) -> bool:
        """Whether configurations ran under more than one seed."""
        return any(row[columns.REPEAT] for row in self.trials)

    @cached_property
    def space(self) -> Space | None:
        """The space that was searched; none when the run's settings do not hold it."""
        name, content = self.settings.get("space_name"), self.settings.get("space")
        try:
            return None if content is None else Space.from_dict(str(name), content)
        except SpaceError as error:
            raise RunError(f"{self.run.config} does not hold a space that can be read: {error}") from error

    @cached_property
    def parameters(self) -> list[str]:
        """Dotted paths of the space that trials were drawn from."""
        return list(self.data["parameters"])

    @cached_property
    def varying(self) -> list[str]:
        """The parameters on which at least two trials differ; all of them when fewer than two are known."""
        known = [row for row in self.trials if any(row[path] is not None for path in self.parameters)]
        if len(known) < 2:
            return self.parameters
        return [path for path in self.parameters if len({repr(row[path]) for row in known}) > 1]

    @cached_property
    def front_rows(self) -> list[Row]:
        """The configurations of the front, the fastest first."""
        by_id = {row[columns.TRIAL_ID]: row for row in self.configurations}
        return [by_id[row[columns.TRIAL_ID]] for row in self.front.to_pylist()]

    @cached_property
    def labels(self) -> list[str]:
        """Short names of the architectures tried, sorted: what colours stand for."""
        return sorted({architecture_label(row) for row in self.trials})


def read_record(run: RunFolder) -> Record:
    """Read the run.

    Raises:
        RunError: the folder is not that of a run, or was written by another version.
        ResultsError: a table that cannot be read.
    """
    data = _read_data(run)
    trials = _latest(run.read_trials(), [columns.TRIAL_ID])
    epochs = _latest(run.read_epochs(), [columns.TRIAL_ID, columns.EPOCH])
    curves = _curves(epochs)
    version = max(_schema_version(run, table) for table in (trials, epochs))
    tried = configurations_table(trials)
    return Record(
        run=run,
        data=data,
        settings=_read_settings(run.config),
        schema_version=version,
        trials=_all_trials(run, data, trials, curves),
        epochs=epochs,
        curves=curves,
        architectures=_latest(run.read_architectures(), [columns.ARCHITECTURE, columns.DEVICE]).to_pylist(),
        front=objectives.front(tried),
        hypervolume=objectives.hypervolume(tried),
        reference_point=objectives.reference_point(tried),
    )


def architecture_label(row: Row) -> str:
    """The names in a row's architecture key, ``deeplab resnet18``; numbers, switches and the usual are details."""
    names = [value for value in architecture_fields(row).values() if isinstance(value, str) and value != _USUAL]
    return " ".join(names) or UNKNOWN_ARCHITECTURE


def architecture_fields(row: Row) -> dict[str, Any]:
    """The model fields in a row's architecture key; none when the key is null."""
    key = row[columns.ARCHITECTURE]
    try:
        fields = json.loads(key) if key else {}
    except json.JSONDecodeError:
        fields = key
    return fields if isinstance(fields, dict) else {"architecture": str(key)}


def is_number(value: object) -> bool:
    """Whether a metric is there and finite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _read_data(run: RunFolder) -> dict[str, Any]:
    data = run.read_data()
    missing = [key for key in (*_DATA_KEYS, "parameters") if key not in data]
    if missing:
        raise RunError(f"{run.path} is not a run that started: {run.data.name} lacks {', '.join(missing)}.")
    return data


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError) as error:
        raise RunError(f"{path.parent} is not a run that started: {path.name} cannot be read ({error}).") from error
    return {str(key): value for key, value in settings.items()} if isinstance(settings, dict) else {}


def _schema_version(run: RunFolder, table: pa.Table) -> int:
    version = int((table.schema.metadata or {}).get(b"schema_version", columns.SCHEMA_VERSION))
    if version != columns.SCHEMA_VERSION:
        way = "Update it" if version > columns.SCHEMA_VERSION else "Use the version that the run was made with"
        raise RunError(
            f"The results of {run.path} have schema version {version}; this segmentation-search reads "
            f"{columns.SCHEMA_VERSION}. {way}."
        )
    return version


def _latest(table: pa.Table, keys: list[str]) -> pa.Table:
    """A search that was killed and resumed may have written a row twice until it compacts: the last one counts."""
    return last_rows(table, keys) if table.num_rows else table


def _curves(epochs: pa.Table) -> dict[str, list[Row]]:
    curves: dict[str, list[Row]] = defaultdict(list)
    for row in epochs.to_pylist():
        curves[row[columns.TRIAL_ID]].append(row)
    return {trial: sorted(rows, key=lambda row: row[columns.EPOCH]) for trial, rows in curves.items()}


def _all_trials(run: RunFolder, data: Mapping[str, Any], table: pa.Table, curves: Mapping[str, list[Row]]) -> list[Row]:
    """The rows of ``trials`` and one for each trial that only ``epochs`` knows, with every column present."""
    parameters = {path: pa.string() for path in data["parameters"]}
    names = columns.trials_schema(parameters, [entry["name"] for entry in data["classes"]]).names
    ended = [dict.fromkeys(names) | row for row in table.to_pylist()]
    known = {row[columns.TRIAL_ID] for row in ended}
    open_ones = [
        dict.fromkeys(names) | _interrupted(run, trial, rows, parameters)
        for trial, rows in curves.items()
        if trial not in known
    ]
    return sorted(ended + open_ones, key=_order)


def _order(row: Row) -> tuple[int, str, int]:
    """The order drawn: t9999 before t10000, and repeats behind the run they repeat."""
    return len(row[columns.CONFIGURATION]), row[columns.CONFIGURATION], row[columns.REPEAT]


def _interrupted(run: RunFolder, trial: str, rows: list[Row], parameters: Iterable[str]) -> Row:
    measured = [row for row in rows if is_number(row[columns.MIOU])]
    top = max(measured, key=lambda row: row[columns.MIOU], default=None)
    configuration, repeat = split_id(trial)
    row: Row = {
        columns.TRIAL_ID: trial,
        columns.CONFIGURATION: configuration,
        columns.REPEAT: repeat,
        columns.STATE: columns.INTERRUPTED,
        columns.REASON: _STILL_OPEN,
        columns.EPOCH: rows[-1][columns.EPOCH],
        columns.TRAIN_TIME_S: rows[-1][columns.TRAIN_TIME_S],
        columns.BEST_EPOCH: top[columns.EPOCH] if top else None,
    }
    row |= {name: top[name] for name in _BEST_OF_EPOCH} if top else {}
    try:
        config = TrialConfig.load(run.trials / trial / "config.yaml")
    except (OSError, ConfigError):
        return row  # its epochs are there all the same; the page shows no parameters
    row[columns.ARCHITECTURE] = json.dumps(config.model.identity())
    row[columns.EPOCHS] = config.training.epochs
    return row | {path: columns.cell(_drawn(config, path)) for path in parameters}


def _drawn(config: TrialConfig, path: str) -> Any:
    """A parameter's value; null for a model field that this architecture does not read."""
    group, _, leaf = path.rpartition(".")
    if group == "model" and leaf not in ("architecture", *fields_read(config.model.architecture)):
        return None
    value: Any = config.to_dict()
    for key in path.split("."):
        value = value[key]
    return value
