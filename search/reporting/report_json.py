"""``report.json``: what the report says, for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime
from typing import Any

from search import columns, objectives
from search.objectives import Row
from search.reporting.question import QuestionView
from search.reporting.record import Record
from search.reporting.summary import EXPORT_NAMES, Pick, Summary
from search.reporting.uncertainty import uncertainty
from search.run_folder import arguments

VERSION = 1
"""Under ``report_version``; raised when readers need other content than before."""
_DATA = ("name", "classes", "num_train", "num_val", "height", "width", "references", "constraints")


def report_json(record: Record, summary: Summary, question: QuestionView) -> str:
    """The report as strict JSON: a value that is missing or not a number is null, times are ISO 8601 in UTC."""
    sure = uncertainty(record)
    content = {
        "report_version": VERSION,
        "results_schema_version": record.schema_version,
        "run": {"name": record.run.name, "argument": arguments(record.runs), "settings": record.settings},
        "data": {key: record.data.get(key) for key in _DATA},
        "objectives": dict(columns.OBJECTIVES),
        "near_best": objectives.NEAR_BEST,
        "hypervolume": {"value": record.hypervolume, "reference_point": record.reference_point},
        "states": dict(summary.states),
        "answer": [*summary.sentences, *summary.details],
        "picks": [_pick(pick) for pick in summary.picks],
        "front": [row | _place(record, row) for row in record.front_rows],
        "uncertainty": [*sure.doubts, *sure.notes],
        "question": {
            "title": question.title,
            "sentences": question.sentences,
            "factors": [{"name": factor.name, "sentences": factor.sentences} for factor in question.factors],
        },
    }
    return json.dumps(_strict(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _pick(pick: Pick) -> dict[str, Any]:
    return {
        "roles": [EXPORT_NAMES[role] for role in pick.roles],
        "export": pick.export,
        "latency_device": pick.device or None,
        "weakest": pick.weakest and dataclasses.asdict(pick.weakest),
        "could_be_luck": pick.luck,
        "trial": pick.trial,
    }


def _place(record: Record, row: Row) -> dict[str, Any]:
    place = record.places[row[columns.TRIAL_ID]]
    return {
        "miou_interval": place.interval and dataclasses.asdict(place.interval),
        "place": place.verdict,
        "doubts": [dataclasses.asdict(doubt) for doubt in place.doubts],
        "not_assessed_against": list(place.unknown),
    }


def _strict(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if isinstance(value, datetime) else value
