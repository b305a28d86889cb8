"""Everything a report shows, read once from the run's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from omegaconf import OmegaConf
from yaml import YAMLError

from search import columns, objectives
from search.diagnosis import Diagnosis, read_diagnosis
from search.gallery import Gallery, read_gallery
from search.luck import Place, assess
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
    """The ``epochs`` table, each (trial, epoch) once: the rows of a trial lie together, by epoch."""
    spans: Mapping[str, slice]
    """Trial to where its rows are in ``epochs``; a trial that reported no epoch is not there."""
    architectures: list[Row]
    front: pa.Table
    hypervolume: float
    reference_point: Mapping[str, float]
    prefix: str = ""
    """Before the ids of its trials, where it is a part of a record of several runs (:mod:`search.reporting.merged`)."""
    parts: tuple[Record, ...] = ()
    """The runs that a record of several puts side by side, with the ids that their trials have in it."""

    @property
    def runs(self) -> tuple[RunFolder, ...]:
        """The runs that the trials are of."""
        return tuple(part.run for part in self.parts) or (self.run,)

    def source(self, trial_id: str) -> tuple[RunFolder, str]:
        """The run that a trial belongs to, and its id there."""
        return self.run, trial_id.removeprefix(self.prefix)

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
    def diagnosis(self) -> Diagnosis | None:
        """How the front's models fail; None where none was written, it cannot be read or is of other classes."""
        try:
            found = self.read_diagnosis()
        except RunError:
            return None  # the page's section on failures says why
        return found if found and list(found.classes) == self.class_names else None

    def read_diagnosis(self) -> Diagnosis | None:
        """What :func:`search.diagnosis.read_diagnosis` reads, also of another data set."""
        return read_diagnosis(self.run)

    def read_gallery(self) -> Gallery | None:
        """What :func:`search.gallery.read_gallery` reads."""
        return read_gallery(self.run)

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """How sure each place on the front is, by ``trial_id``."""
        return assess(self.front_rows, self.configurations, self.architectures, self.diagnosis)

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
    epochs = _by_trial(_latest(run.read_epochs(), [columns.TRIAL_ID, columns.EPOCH]))
    spans = _spans(epochs)
    version = max(_schema_version(run, table) for table in (trials, epochs))
    tried = configurations_table(trials)
    return Record(
        run=run,
        data=data,
        settings=_read_settings(run.config),
        schema_version=version,
        trials=_all_trials(run, data, trials, epochs, spans),
        epochs=epochs,
        spans=spans,
        architectures=_architectures(run),
        front=objectives.front(tried),
        hypervolume=objectives.hypervolume(tried),
        reference_point=objectives.reference_point(tried),
    )


def _architectures(run: RunFolder) -> list[Row]:
    """The table ``architectures``, and of those measured again at the end of the search the second latency."""
    checks = {_measured(row): row[columns.LATENCY_MS] for row in run.read_latency_checks().to_pylist()}
    rows = _latest(run.read_architectures(), [columns.ARCHITECTURE, columns.DEVICE]).to_pylist()
    return [row | {columns.LATENCY_AGAIN_MS: checks.get(_measured(row))} for row in rows]


def _measured(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in columns.MEASURED)


def architecture_label(row: Row) -> str:
    """The names in a row's architecture key, ``deeplab resnet18``; numbers, switches and the usual are details."""
    names = [value for value in architecture_fields(row).values() if isinstance(value, str) and value != _USUAL]
    return " ".join(names) or UNKNOWN_ARCHITECTURE


def architecture_fields(row: Row) -> Mapping[str, Any]:
    """The model fields in a row's architecture key; none when the key is null."""
    return _fields_in(row[columns.ARCHITECTURE])


@cache
def _fields_in(key: str | None) -> Mapping[str, Any]:
    try:
        fields = json.loads(key) if key else {}
    except json.JSONDecodeError:
        fields = key
    return fields if isinstance(fields, dict) else {"architecture": str(key)}


def is_number(value: object) -> bool:
    """Whether a metric is there and finite."""
    return isinstance(value, int | float) and math.isfinite(value)


def numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    """A column as ``(rows,)`` float64, NaN where it is null or not finite; all NaN where the table lacks it."""
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values = table.column(column).to_numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


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


def _by_trial(epochs: pa.Table) -> pa.Table:
    """The rows of each trial together and by epoch, the trials in the order in which they reported first."""
    if not epochs.num_rows:
        return epochs
    first_seen = epochs.column(columns.TRIAL_ID).combine_chunks().dictionary_encode().indices.to_numpy()
    return epochs.take(pa.array(np.lexsort((epochs.column(columns.EPOCH).to_numpy(), first_seen))))


def _spans(epochs: pa.Table) -> dict[str, slice]:
    """Trial to its rows, of a table in which they lie together."""
    if not epochs.num_rows:
        return {}
    runs = pc.run_end_encode(epochs.column(columns.TRIAL_ID).combine_chunks())
    ends = runs.run_ends.to_pylist()
    return {
        trial: slice(start, end) for trial, start, end in zip(runs.values.to_pylist(), [0, *ends], ends, strict=False)
    }


def _all_trials(
    run: RunFolder, data: Mapping[str, Any], table: pa.Table, epochs: pa.Table, spans: Mapping[str, slice]
) -> list[Row]:
    """The rows of ``trials`` and one for each trial that only ``epochs`` knows, with every column present."""
    parameters = {path: pa.string() for path in data["parameters"]}
    names = columns.trials_schema(parameters, [entry["name"] for entry in data["classes"]]).names
    ended = [dict.fromkeys(names) | row for row in table.to_pylist()]
    known = {row[columns.TRIAL_ID] for row in ended}
    open_ones = [
        dict.fromkeys(names) | _interrupted(run, trial, epochs[span], parameters)
        for trial, span in spans.items()
        if trial not in known
    ]
    return sorted(ended + open_ones, key=_order)


def _order(row: Row) -> tuple[int, str, int]:
    """The order drawn: t9999 before t10000, and repeats behind the run they repeat."""
    return len(row[columns.CONFIGURATION]), row[columns.CONFIGURATION], row[columns.REPEAT]


def _interrupted(run: RunFolder, trial: str, rows: pa.Table, parameters: Iterable[str]) -> Row:
    """What is known of a trial without an end, from its own rows of ``epochs`` and its configuration."""
    miou = numbers(rows, columns.MIOU)
    top = None if np.isnan(miou).all() else rows.slice(int(np.nanargmax(miou)), 1).to_pylist()[0]
    (last,) = rows.slice(rows.num_rows - 1).to_pylist()
    configuration, repeat = split_id(trial)
    row: Row = {
        columns.TRIAL_ID: trial,
        columns.CONFIGURATION: configuration,
        columns.REPEAT: repeat,
        columns.STATE: columns.INTERRUPTED,
        columns.REASON: _STILL_OPEN,
        columns.EPOCH: last[columns.EPOCH],
        columns.TRAIN_TIME_S: last[columns.TRAIN_TIME_S],
        columns.BEST_EPOCH: top[columns.EPOCH] if top else None,
    }
    row |= {name: top[name] for name in _BEST_OF_EPOCH} if top else {}
    try:
        config = TrialConfig.load(run.trials / trial / "config.yaml")
    except (OSError, ConfigError):
        return row  # its epochs are there all the same; the page shows no parameters
    settings = config.to_dict()
    row[columns.CONFIG] = json.dumps(settings)
    row[columns.ARCHITECTURE] = json.dumps(config.model.identity())
    row[columns.EPOCHS] = config.training.epochs
    return row | {path: setting(settings, path) for path in parameters}


def setting(settings: Mapping[str, Any], path: str) -> Any:
    """What a trial has at a dotted path, as a table holds it; null for a model field its architecture does not read.

    Args:
        settings: the trial's configuration as nested dicts.
        path: of a parameter; null where the settings have no such path.
    """
    group, _, leaf = path.rpartition(".")
    if group == "model" and leaf not in ("architecture", *fields_read(settings["model"]["architecture"])):
        return None
    value: Any = settings
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return columns.cell(value)
