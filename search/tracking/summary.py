"""The search as a whole on W&B: one run with the front as a table, what its models see, and the report."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import numpy as np
import wandb
from PIL import Image

from search import columns, objectives
from search.gallery import Gallery, GalleryImage, read_gallery
from search.objectives import Row
from search.reporting.record import Record, architecture_label, read_record
from search.run_folder import RunFolder
from search.tracking.client import finish_run, init_run
from search.tracking.place import Place

SUMMARY = "summary"
"""Ends the id of the search's own run."""
_LEFT_OUT = (columns.CONFIG, columns.ARCHITECTURE, columns.STATE, columns.REASON)
"""Columns of ``trials`` that say nothing in a table of the front."""


def send_summary(run: RunFolder, place: Place, online: bool) -> None:
    """Bring the search's own run to what its folder holds; sent again, it replaces what was there."""
    record, gallery = read_record(run), read_gallery(run)
    sent = init_run(run, place, SUMMARY, online=online, job_type="search", config=record.settings, title=run.name)
    news: dict[str, Any] = {"front": front_table(record)}
    if gallery is not None and gallery.members:
        news["gallery"] = gallery_images(gallery, {row[columns.TRIAL_ID]: row for row in record.front_rows})
    sent.log(news)
    sent.summary.update(figures(record))
    if run.report.exists():
        report = wandb.Artifact(f"report-{run.name}", type="report")
        report.add_dir(str(run.report))
        sent.log_artifact(report)
    finish_run(sent, rows=sent.step)


def front_table(record: Record) -> wandb.Table:
    """The front, the fastest first: every column of ``trials`` in which it has something to say."""
    rows = record.front_rows
    names = [name for name in (rows[0] if rows else ()) if name not in _LEFT_OUT]
    known = [name for name in names if any(row[name] is not None for row in rows)]
    data = [[architecture_label(row), *(_cell(row[name]) for name in known)] for row in rows]
    return wandb.Table(columns=["model", *known], data=data)


def gallery_images(gallery: Gallery, members: dict[str, Row]) -> list[wandb.Image]:
    """Every image with truth and prediction over it, model by model."""
    labels = {index: item.name for index, item in enumerate(gallery.classes)}
    return [
        wandb.Image(
            Image.open(image.image),
            caption=f"{_title(members.get(trial_id), trial_id)}: {image.name}",
            masks={
                "prediction": {"mask_data": _classes(image, trial_id), "class_labels": labels},
                "truth": {"mask_data": np.array(Image.open(image.truth)), "class_labels": labels},
            },
        )
        for trial_id in gallery.members
        for image in gallery.images
    ]


def figures(record: Record) -> dict[str, Any]:
    """What the search reached, in numbers."""
    choices = {
        "best": objectives.best(record.front),
        "knee": objectives.knee(record.front),
        "fastest_near_best": objectives.fastest_near_best(record.front),
    }
    chosen = {name: row[columns.TRIAL_ID] for name, row in choices.items() if row is not None}
    best = choices["best"]
    return {
        **({} if best is None else {columns.MIOU: best[columns.MIOU]}),
        "hypervolume": record.hypervolume,
        "front_size": record.front.num_rows,
        "trials": dict(Counter(row[columns.STATE] for row in record.trials)),
        **chosen,
    }


def _classes(image: GalleryImage, trial_id: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(Image.open(image.predictions[trial_id]))


def _title(row: Row | None, trial_id: str) -> str:
    if row is None:
        return trial_id
    cost = f"{row[columns.LATENCY_MS]:.3g} ms, {row[columns.SIZE_MB]:.3g} MB"
    return f"{trial_id} {architecture_label(row)}, mIoU {row[columns.MIOU]:.3f}, {cost}"


def _cell(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else value
