"""Several runs of one data set as one record: their trials side by side under one front, ``<run>/<trial_id>``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from search import columns, objectives
from search.diagnosis import Diagnosis, ModelDiagnosis
from search.gallery import Gallery
from search.objectives import Row
from search.reporting.record import Record, setting
from search.reporting.wording import limits
from search.run_folder import RunError, RunFolder

RUN = "run"
"""The column that tells the runs apart: a parameter like those of the spaces."""
_SAME = {
    "name": "data sets",
    "classes": "classes",
    "num_val": "numbers of validation images",
    "height": "image heights",
    "width": "image widths",
}
"""What makes two mIoUs comparable, of ``data.json``, as it is called in a message."""


@dataclass(frozen=True)
class MergedRecord(Record):
    """Runs of one data set, its ``parts``. ``run`` is no run of its own: the folder where their common report lies."""

    def source(self, trial_id: str) -> tuple[RunFolder, str]:
        """See :meth:`Record.source`."""
        return self._part(trial_id).source(trial_id)

    @cached_property
    def space(self) -> None:
        """None: what one space asks about, the trials of the others were not drawn to answer."""
        return

    def read_diagnosis(self) -> Diagnosis | None:
        """The diagnoses of all runs whose validation images are the same; the others' members are missing."""
        found = [(part, part.diagnosis) for part in self.parts if part.diagnosis is not None]
        if not found:
            return None
        _, first = found[0]
        members: dict[str, ModelDiagnosis] = {}
        missing: dict[str, str] = {}
        for part, diagnosis in found:
            reasons = dict(diagnosis.missing)
            if diagnosis.image_names == first.image_names:
                models = [dataclasses.replace(m, trial_id=part.prefix + m.trial_id) for m in diagnosis.members.values()]
                members |= {model.trial_id: model for model in models}
            else:
                reasons |= dict.fromkeys(diagnosis.members, f"run {part.run.name} validated on other images.")
            missing |= {part.prefix + trial: reason for trial, reason in reasons.items()}
        return dataclasses.replace(first, members=members, missing=missing)

    def read_gallery(self) -> Gallery | None:
        """The galleries of all runs as one."""
        found = {part.prefix: part.read_gallery() for part in self.parts}
        return merged_gallery({prefix: gallery for prefix, gallery in found.items() if gallery is not None})

    def _part(self, trial_id: str) -> Record:
        return next(part for part in self.parts if trial_id.startswith(part.prefix))


@dataclass(frozen=True)
class MergedGallery(Gallery):
    """Galleries of runs that validated on the same images."""

    parts: Mapping[str, Gallery] = dataclasses.field(default_factory=dict)
    """Prefix of the trials' ids to the gallery of their run."""

    def file(self, kind: str, index: int) -> Path:
        """See :meth:`Gallery.file`; images and truth are those of the first run that has them."""
        for prefix, gallery in self.parts.items():
            if kind.startswith(prefix):
                return gallery.file(kind.removeprefix(prefix), index)
        files = [gallery.file(kind, index) for gallery in self.parts.values()]
        return next((file for file in files if file.is_file()), files[0])


def merged_gallery(galleries: Mapping[str, Gallery]) -> Gallery | None:
    """One gallery out of those of several runs, by the prefix of their trials' ids; none of none."""
    if not galleries:
        return None
    shown = {prefix + trial: images for prefix, own in galleries.items() for trial, images in own.shown.items()}
    missing = {prefix + trial: reason for prefix, own in galleries.items() for trial, reason in own.missing.items()}
    first = next(iter(galleries.values()))
    return MergedGallery(first.folder, first.names, first.classes, first.ignored_color, shown, missing, galleries)


def merge(records: Sequence[Record]) -> MergedRecord:
    """Put runs side by side.

    Args:
        records: at least two, of runs in one folder of runs.

    Raises:
        RunError: a run given twice, or runs whose mIoUs cannot be compared.
    """
    _require_comparable(records)
    parameters = list(dict.fromkeys([RUN, *(path for record in records for path in record.parameters)]))
    trials = [_tagged_trials(record, parameters) for record in records]
    _unify(parameters, [row for rows in trials for row in rows])
    parts = tuple(_tagged(record, rows) for record, rows in zip(records, trials, strict=True))
    reported = [part.epochs for part in parts if part.spans] or [parts[0].epochs]
    front = objectives.front(_table([row for part in parts for row in part.configurations], parts))
    corners = [part.reference_point for part in parts if part.reference_point]
    reference = {name: max(corner[name] for corner in corners) for name in columns.OBJECTIVES} if corners else {}
    return MergedRecord(
        run=RunFolder(records[0].run.path.parent / "+".join(record.run.name for record in records)),
        data=_data(records, parameters),
        settings=_settings(records),
        schema_version=records[0].schema_version,
        trials=[row for part in parts for row in part.trials],
        epochs=pa.concat_tables(reported, promote_options="permissive"),
        spans=_spans(parts),
        architectures=_architectures(parts),
        front=front,
        hypervolume=objectives.hypervolume(front, reference),
        reference_point=reference,
        parts=parts,
    )


def _require_comparable(records: Sequence[Record]) -> None:
    names = [record.run.name for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"run={','.join(names)} names {', '.join(twice)} more than once.")
    for key, noun in _SAME.items():
        first, *others = records
        for other in others:
            if other.data[key] != first.data[key]:
                values = f"{first.run.name} has {_brief(first, key)}, {other.run.name} {_brief(other, key)}"
                raise RunError(f"Runs can be compared on one data set only; these have different {noun}: {values}.")


def _brief(record: Record, key: str) -> str:
    return ", ".join(record.class_names) if key == "classes" else str(record.data[key])


def _tagged_trials(record: Record, parameters: Sequence[str]) -> list[Row]:
    """The run's trials under their ids here, with the value of every parameter, also where this run fixed it."""
    prefix, own = _prefix(record), {RUN, *record.parameters}
    others = [path for path in parameters if path not in own]
    rows = []
    for row in record.trials:
        settings = json.loads(row[columns.CONFIG]) if row[columns.CONFIG] else None
        fixed = {path: setting(settings, path) if settings else None for path in others}
        ids = {name: prefix + row[name] for name in (columns.TRIAL_ID, columns.CONFIGURATION)}
        rows.append(row | fixed | ids | {RUN: record.run.name})
    return rows


def _unify(parameters: Iterable[str], rows: Sequence[Row]) -> None:
    """Where the runs' values of a parameter are of kinds that do not go together, make them text."""
    for path in parameters:
        kinds = {type(row[path]) for row in rows if row[path] is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:
            for row in rows:
                row[path] = None if row[path] is None else str(row[path])


def _tagged(record: Record, trials: list[Row]) -> Record:
    prefix = _prefix(record)
    return dataclasses.replace(
        record,
        trials=trials,
        epochs=_prefixed(record.epochs, prefix),
        spans={prefix + trial: span for trial, span in record.spans.items()},
        front=_prefixed(record.front, prefix),
        prefix=prefix,
    )


def _prefixed(table: pa.Table, prefix: str) -> pa.Table:
    for name in (columns.TRIAL_ID, columns.CONFIGURATION):
        if name in table.column_names:
            ids = pa.array([prefix + value for value in table.column(name).to_pylist()], type=pa.string())
            table = table.set_column(table.schema.get_field_index(name), name, ids)
    return table


def _prefix(record: Record) -> str:
    return f"{record.run.name}/"


def _table(rows: Sequence[Row], parts: Sequence[Record]) -> pa.Table:
    """Configurations as a table with every column of every run, in the types that they have there."""
    types: dict[str, pa.DataType] = {}
    for field in (field for part in parts for field in part.front.schema):
        types.setdefault(field.name, field.type)
    filled = [dict.fromkeys(dict.fromkeys([*types, *(name for row in rows for name in row)])) | row for row in rows]
    if not filled:
        return pa.table({})
    arrays = {name: _array([row[name] for row in filled], types.get(name)) for name in filled[0]}
    return pa.table(arrays)


def _array(values: Sequence[Any], kind: pa.DataType | None) -> pa.Array:
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(values)  # of another type in another run


def _spans(parts: Iterable[Record]) -> dict[str, slice]:
    spans: dict[str, slice] = {}
    start = 0
    for part in (part for part in parts if part.spans):
        spans |= {trial: slice(start + span.start, start + span.stop) for trial, span in part.spans.items()}
        start += part.epochs.num_rows
    return spans


def _architectures(parts: Iterable[Record]) -> list[Row]:
    """What was measured, once each: runs on one machine share their measurements."""
    found = {repr(sorted(row.items(), key=str)): row for part in parts for row in part.architectures}
    return list(found.values())


def _data(records: Sequence[Record], parameters: list[str]) -> dict[str, Any]:
    first = records[0].data
    names = [record.run.name for record in records]
    question = f"Which of the runs {', '.join(names[:-1])} and {names[-1]} has the better models?"
    constraints = first.get("constraints") if _agree(record.data.get("constraints") for record in records) else {}
    references = {entry["label"]: entry for record in records for entry in record.data["references"]}
    return {
        **first,
        "question": question,
        "notes": _notes(records),
        "parameters": parameters,
        "references": list(references.values()),
        "constraints": constraints,
    }


def _notes(records: Sequence[Record]) -> list[str]:
    """What the data sets said of themselves, and where the runs differ in what a comparison needs."""
    notes = dict.fromkeys(str(note) for record in records for note in record.data["notes"])
    differing = {
        "numbers of training images": [str(record.data["num_train"]) for record in records],
        "limits": [limits(record.data.get("constraints") or {}) or "none" for record in records],
        "full budgets in epochs": [_distinct(record.trials, columns.EPOCHS) for record in records],
        "devices of the latency": [_distinct(record.architectures, columns.DEVICE_NAME) for record in records],
    }
    for noun, values in differing.items():
        if not _agree(values):
            told = "; ".join(f"{record.run.name}: {value}" for record, value in zip(records, values, strict=True))
            notes[f"The runs differ in their {noun} ({told})."] = None
    return list(notes)


def _distinct(rows: Iterable[Row], column: str) -> str:
    return ", ".join(sorted({str(row[column]) for row in rows if row[column] is not None})) or "unknown"


def _agree(values: Iterable[Any]) -> bool:
    return len({repr(value) for value in values}) == 1


def _settings(records: Sequence[Record]) -> dict[str, Any]:
    """The settings that all runs share, and the number of trials planned in all of them together."""
    first = records[0].settings
    shared = {key: value for key, value in first.items() if _agree(record.settings.get(key) for record in records)}
    planned = [record.settings.get("num_trials") for record in records]
    numbers = [number for number in planned if isinstance(number, int)]
    return shared | {"num_trials": sum(numbers) if len(numbers) == len(planned) else None}
