"""The model of a run that a user means, and what there is to say of it."""

from __future__ import annotations

import difflib
import json
import shlex
from typing import Any

from search import columns, objectives
from search.objectives import Row
from search.reporting.record import Record
from search.reporting.wording import written
from search.run_folder import RunError
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.exporting.export import TrainedModel

PICKS = {"best": objectives.best, "knee": objectives.knee, "fastest": objectives.fastest_near_best}
"""What a user may call a trial beside its id, and which one of a front that is."""
_LATENCY = (
    *(columns.LATENCY_MS, columns.LATENCY_P95_MS, columns.DEVICE, columns.DEVICE_NAME, columns.PRECISION),
    *(columns.BATCH, columns.HEIGHT, columns.WIDTH, columns.TORCH_VERSION),
)
_METRICS = (columns.MIOU, columns.MIOU_FOREGROUND, columns.PIXEL_ACCURACY, columns.MEAN_CLASS_ACCURACY)


def choose_trial(record: Record, wanted: str) -> Row:
    """The row of ``trials`` that ``wanted`` names: a key of :data:`PICKS`, or an id.

    Of a configuration that ran under several seeds it is the first run, which is also the one that the report shows.

    Raises:
        RunError: the front has no such trial, there is none of that id, or it has no model.
    """
    rows = {row[columns.TRIAL_ID]: row for row in record.trials}
    trial = wanted
    if wanted in PICKS:
        pick = PICKS[wanted](record.front)
        if pick is None:
            raise RunError(_no_pick(record, wanted))
        trial = pick[columns.TRIAL_ID]
    if trial not in rows:
        near = difflib.get_close_matches(trial, [*PICKS, *rows], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RunError(f"Run {record.run.name} has no trial {trial!r}.{hint} trial is {', '.join(PICKS)} or an id.")
    _require_model(record, rows[trial])
    return rows[trial]


def _no_pick(record: Record, wanted: str) -> str:
    if not record.front.num_rows:
        return f"Run {record.run.name} has no front: no completed trial has mIoU, latency and size."
    return f"The front of run {record.run.name} has no {wanted}: that takes three models. Choose trial=best or fastest."


def _require_model(record: Record, row: Row) -> None:
    trial, state = row[columns.TRIAL_ID], row[columns.STATE]
    if state not in (columns.COMPLETED, columns.STOPPED):
        reason = f" ({row[columns.REASON]})" if row[columns.REASON] else ""
        raise RunError(f"Trial {trial} is {state}{reason}: only a completed trial has a model to export.")
    if state == columns.STOPPED and not Checkpoints(record.run.trials / trial).best.is_file():
        raise RunError(
            f"Trial {trial} was stopped at epoch {row[columns.EPOCH]} of {row[columns.EPOCHS]} "
            f"({row[columns.REASON]}), and a search keeps no weights of such trials. To have them, train it alone: "
            f"python -m trainers.train {shlex.quote(str(record.run.trials / trial / 'config.yaml'))}"
        )


def describe_trial(record: Record, row: Row) -> TrainedModel:
    """The trial with everything that its model card says."""
    trial = row[columns.TRIAL_ID]
    config = TrialConfig.from_dict(json.loads(row[columns.CONFIG]))
    return TrainedModel(
        run=record.run.name,
        trial=trial,
        config=config,
        checkpoint=Checkpoints(record.run.trials / trial).best,
        metrics={name: row[name] for name in _METRICS},
        iou={name: row[columns.iou_column(name)] for name in record.class_names},
        costs={name: row[name] for name in (columns.PARAMS, columns.MACS, columns.SIZE_MB)},
        latency=_measurements(record, row, config),
        data={name: record.data[name] for name in ("name", "num_train", "num_val", "notes")},
        notes=[*_budget_note(row), *_seeds_note(record, row)],
    )


def _measurements(record: Record, row: Row, config: TrialConfig) -> list[dict[str, Any]]:
    """The latencies measured of the trial's architecture at its image size."""
    wanted = (row[columns.ARCHITECTURE], config.data.height, config.data.width)
    measured = [
        entry
        for entry in record.architectures
        if (entry[columns.ARCHITECTURE], entry[columns.HEIGHT], entry[columns.WIDTH]) == wanted
    ]
    return [{name: entry[name] for name in _LATENCY} for entry in measured]


def _budget_note(row: Row) -> list[str]:
    if row[columns.STATE] != columns.STOPPED:
        return []
    return [
        f"The search stopped this trial at epoch {row[columns.EPOCH]} of {row[columns.EPOCHS]} "
        f"({row[columns.REASON]}): the model is not trained to the end."
    ]


def _seeds_note(record: Record, row: Row) -> list[str]:
    name = row[columns.CONFIGURATION]
    runs = [other for other in record.trials if other[columns.CONFIGURATION] == name]
    done = [other for other in runs if other[columns.STATE] == columns.COMPLETED]
    if len(done) < 2:
        return []
    others = [
        f"{other[columns.TRIAL_ID]} {written(columns.MIOU, other[columns.MIOU])}" for other in done if other is not row
    ]
    return [
        f"The configuration ran under {len(done)} seeds. This is {row[columns.TRIAL_ID]} with mIoU "
        f"{written(columns.MIOU, row[columns.MIOU])}; the other runs: {', '.join(others)}."
    ]
