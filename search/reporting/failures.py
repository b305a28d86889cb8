"""Why a model fails: IoU of each class over the front, and for each of its models what it confuses and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search import columns
from search.diagnosis import Diagnosis, ModelDiagnosis
from search.gallery import Gallery
from search.objectives import Row
from search.reporting.failures_pictures import BUDGET_BYTES, Examples, embed_examples, numbers
from search.reporting.failures_text import confusion_sentences, listed, weakest_classes, weakness
from search.reporting.record import Record, architecture_label, is_number
from search.reporting.summary import BEST, Summary
from search.reporting.wording import quantity, written
from search.run_folder import RunError


@dataclass(frozen=True)
class HeatCell:
    """IoU of one class: value in [0, 1] or None, as written, and whether no class of the model has less."""

    value: float | None
    text: str
    weakest: bool


@dataclass(frozen=True)
class HeatRow:
    """IoU of each class of one model."""

    trial: Row
    label: str
    weakest: str
    """The weakest class, or classes, in words."""
    cells: list[HeatCell]


@dataclass(frozen=True)
class Weakness:
    """One model's weaknesses in words."""

    trial: str
    label: str
    roles: Sequence[str]
    text: str


@dataclass(frozen=True)
class FailuresView:
    """The section: the heat map, a text for each model, what is missing, and the data of the chosen model's part."""

    heat: list[HeatRow]
    weaknesses: list[Weakness]
    notes: list[str]
    """What cannot be shown, why, and what would help."""
    explanation: str
    """How boundary IoU and the sizes of objects are defined; empty where there are none."""
    chart: Mapping[str, Any]
    """For the script; without ``members`` there is nothing to choose."""


def explain_failures(record: Record, summary: Summary, budget: int = BUDGET_BYTES) -> FailuresView:
    """Find out how the models of the front fail, from what their search wrote into the run's folder.

    Args:
        record: the run.
        summary: its answer; the models that it names have their pictures first.
        budget: bytes that all pictures may take in the page.
    """
    diagnosis, problem = _diagnosis(record)
    heat = [_heat_row(record, row) for row in record.front_rows]
    if diagnosis is None:
        return FailuresView(heat, [], [problem] if heat else [], "", {"members": []})
    roles = summary.roles()
    members = [_member(record, row, roles.get(row[columns.TRIAL_ID], ()), diagnosis) for row in record.front_rows]
    gallery, problem = _gallery(record, diagnosis)
    shown = None
    if gallery is not None:
        shown = embed_examples(gallery, diagnosis.image_names, _by_priority(diagnosis, summary), budget)
    return FailuresView(
        heat=heat,
        weaknesses=[Weakness(m["id"], m["name"], m["roles"], m["text"] or m["reason"]) for m in members],
        notes=_notes(record, shown) if shown is not None else [problem],
        explanation=_explanation(record, diagnosis),
        chart={
            "members": members,
            "chosen": _first_chosen(members),
            "classes": [{"name": entry["name"], "color": entry["color"]} for entry in record.data["classes"]],
            "gallery": shown.content if shown is not None else None,
        },
    )


def _diagnosis(record: Record) -> tuple[Diagnosis | None, str]:
    """The diagnosis, or why there is none."""
    if record.diagnosis is not None:
        return record.diagnosis, ""
    try:
        unusable = record.read_diagnosis()
    except RunError as error:
        return None, _remedied(record, str(error))
    if unusable is not None:
        folders = " and ".join(str(run.diagnosis) for run in record.runs)
        return None, _remedied(record, f"{folders}: the diagnosis is of other classes than the results.")
    return None, _remedied(record, "This run has no diagnosis of its models: no confusion matrices and no examples.")


def _gallery(record: Record, diagnosis: Diagnosis) -> tuple[Gallery | None, str]:
    """The gallery, or why there is none."""
    try:
        gallery = record.read_gallery()
    except RunError as error:
        return None, _remedied(record, str(error))
    if gallery is None:
        return None, _remedied(record, "This run has no gallery, so no examples are shown.")
    diagnosed = dict(enumerate(diagnosis.image_names))
    if not gallery.names.items() <= diagnosed.items():
        return None, _remedied(record, "The gallery is of other images than the diagnosis.")
    return gallery, ""


def _remedied(record: Record, problem: str) -> str:
    """A problem with what is missing in the run's folder, and the command that writes it again."""
    commands = [f"python -m search.run {run.argument('resume')}" for run in record.runs]
    return problem if commands[0] in problem else f"{problem} To have it written anew: {', '.join(commands)}"


def _heat_row(record: Record, row: Row) -> HeatRow:
    ious = [row.get(columns.iou_column(name)) for name in record.class_names]
    known = {index: float(value) for index, value in enumerate(ious) if value is not None and is_number(value)}
    weakest = weakest_classes(known)
    missing = written(columns.MIOU, None)
    cells = [
        HeatCell(round(known[index], 4), f"{known[index]:.2f}", index in weakest)
        if index in known
        else HeatCell(None, missing, False)
        for index in range(len(ious))
    ]
    named = listed([record.class_names[index] for index in weakest]) if weakest else missing
    return HeatRow(row, architecture_label(row), named, cells)


def _member(record: Record, row: Row, roles: Sequence[str], diagnosis: Diagnosis) -> dict[str, Any]:
    """One model of the front for the script, without its pictures; with a reason where it was not diagnosed."""
    trial = row[columns.TRIAL_ID]
    shared = {
        "id": trial,
        "name": architecture_label(row),
        "miou": written(columns.MIOU, row[columns.MIOU]),
        "roles": list(roles),
    }
    model = diagnosis.members.get(trial)
    if model is None:
        late = "it was not on the front when the others were."
        reason = diagnosis.missing.get(trial) or late
        return shared | {"text": "", "reason": _remedied(record, f"This model was not diagnosed: {reason}")}
    return shared | {
        "text": weakness(diagnosis.classes, model),
        "reason": "",
        "confusions": confusion_sentences(diagnosis.classes, model.confusion),
        "confusion": model.confusion.tolist(),
        "classes": _class_figures(model),
    }


def _class_figures(model: ModelDiagnosis) -> list[dict[str, Any]]:
    """IoU, boundary IoU, and IoU and number of small, medium and large objects, of each class."""
    by_class = zip(numbers(model.iou), numbers(model.boundary_iou), model.size_iou, model.size_objects, strict=True)
    return [
        {"iou": iou, "boundary_iou": boundary_iou, "size_iou": numbers(size_iou), "objects": objects.tolist()}
        for iou, boundary_iou, size_iou, objects in by_class
    ]


def _by_priority(diagnosis: Diagnosis, summary: Summary) -> list[ModelDiagnosis]:
    """The models that the answer names, then the others in the order of the front."""
    order = dict.fromkeys([pick.trial[columns.TRIAL_ID] for pick in summary.picks] + list(diagnosis.members))
    return [diagnosis.members[trial] for trial in order if trial in diagnosis.members]


def _first_chosen(members: Sequence[Mapping[str, Any]]) -> str:
    """The best of those that have a diagnosis, the first of all where none has."""
    order = sorted(members, key=lambda member: (member["reason"] != "", BEST not in member["roles"]))
    return str(order[0]["id"]) if order else ""


def _notes(record: Record, shown: Examples) -> list[str]:
    """Which pictures are not in the page, and where they are."""
    notes = []
    if shown.left_out:
        folders = " and ".join(str(run.gallery) for run in record.runs)
        notes.append(
            f"To keep this page small, examples of {', '.join(shown.left_out)} are left out, all or in part. They lie "
            f"in {folders}: the images, the truth, and a folder for each model."
        )
    if shown.faults:
        file, reason = next(iter(shown.faults.items()))
        number = f"{len(shown.faults)} pictures" if len(shown.faults) > 1 else "A picture"
        gone = f"{number} of the gallery cannot be shown: {file} ({reason})."
        notes.append(_remedied(record, gone))
    return notes


def _explanation(record: Record, diagnosis: Diagnosis) -> str:
    """How the figures of a class are defined."""
    width, (small, medium) = diagnosis.boundary_width_px, diagnosis.size_limits_px
    repeats = " Where a configuration ran under several seeds, it is the model of the first." if record.repeated else ""
    return (
        f"Boundary IoU counts the pixels of the class at most {width} px from its contours. An object is a connected "
        f"region of the class in the truth: small below {quantity(small)} pixels, medium below {quantity(medium)}."
        f"{repeats}"
    )
