"""The page: template, style, scripts and data put together into one file that needs nothing else."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from typing import Any

import plotly.offline
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from search import columns
from search.reporting.failures import explain_failures
from search.reporting.importance_view import show_importance
from search.reporting.payload import payload
from search.reporting.progress_view import show_progress
from search.reporting.question import answer_question
from search.reporting.record import Record
from search.reporting.summary import summarise
from search.reporting.tables import architectures_table, front_table, runs_table, trials_table
from search.reporting.uncertainty import uncertainty
from search.reporting.wording import MISSING, limits, moment, seconds, written
from search.run_folder import arguments

_SCRIPTS = (
    *("core.js", "tables.js", "answer.js", "pareto.js", "progress.js"),
    *("parallel.js", "question.js", "curves.js", "failures.js", "page.js"),
)
_STYLES = ("style.css", "importance.css", "failures.css")


def render_page(record: Record) -> str:
    """The HTML of the report."""
    summary = summarise(record)
    progress, importance = show_progress(record), show_importance(record)
    question = answer_question(record)
    failures = explain_failures(record, summary)
    tables = {"front": front_table(record), "trials": trials_table(record)}
    tables |= {"architectures": architectures_table(record), "runs": runs_table(record)}
    environment = Environment(
        loader=PackageLoader("search.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["written"] = lambda value, column: written(column, value)
    template = environment.get_template("template.html")
    return template.render(
        record=record,
        columns=columns,
        header=_header(record),
        summary=summary,
        progress=progress,
        importance=importance,
        question=question,
        roles=summary.roles(),
        sure=uncertainty(record),
        fixed=_fixed(record),
        **tables,
        failures=failures,
        conditions=_latency_conditions(record),
        commands=_commands(record),
        payload=payload(record, summary)
        | {"tables": {f"{name}-table": table.as_json() for name, table in tables.items()}}
        | {"question": [factor.chart for factor in question.factors], "failures": failures.chart}
        | {"progress": progress.chart, "parallel": importance.chart},
        style=Markup("\n").join(_asset(name) for name in _STYLES),
        script=Markup("\n").join(_asset(name) for name in _SCRIPTS),
        plotly=Markup(plotly.offline.get_plotlyjs()),
    )


def _asset(name: str) -> Markup:
    """A file of this package, to go into the page as it is."""
    return Markup(files("search.reporting").joinpath(name).read_text(encoding="utf-8"))


def _header(record: Record) -> list[tuple[str, str]]:
    """What was searched on what, when and where, as term and description; unknown ones are left out."""
    data, settings = record.data, record.settings
    name = {key: settings.get(key, {}).get("name") for key in ("sampler", "scheduler") if settings.get(key)}
    search = ", ".join(f"{key} {value}" for key, value in name.items() if value)
    sizes = f"{data['num_train']:,} training and {data['num_val']:,} validation images, "
    pairs = [
        ("Data", f"{data['name']}: {sizes}{data['height']} × {data['width']} pixels"),
        ("Search", search + (f", seed {settings['seed']}" if "seed" in settings else "")),
        ("When", _when(record)),
        ("Trained on", _distinct(record.trials, columns.DEVICE)),
        ("Latency on", _distinct(record.architectures, columns.DEVICE_NAME)),
        ("Limits", limits(data.get("constraints") or {})),
    ]
    return [(term, text) for term, text in pairs if text]


def _distinct(rows: list[dict[str, Any]], column: str) -> str:
    return ", ".join(sorted({row[column] for row in rows if row[column]}))


def _when(record: Record) -> str:
    reported = list(pc.min_max(record.epochs.column(columns.REPORTED_AT)).as_py().values()) if record.spans else []
    starts = [row[columns.STARTED_AT] for row in record.trials] + reported
    ends = [row[columns.ENDED_AT] for row in record.trials] + reported
    times: list[datetime] = sorted(time for time in starts + ends if time is not None)
    if not times:
        return ""
    return f"{moment(times[0])}, for {seconds((times[-1] - times[0]).total_seconds())}"


def _fixed(record: Record) -> list[tuple[str, str]]:
    """Parameters of the space that came out the same in all trials."""
    same = [path for path in record.parameters if path not in record.varying]
    values = {path: [row[path] for row in record.trials if row[path] is not None] for path in same}
    return [(path, written(path, value[0] if value else None)) for path, value in values.items()]


def _latency_conditions(record: Record) -> list[str]:
    """How latency was measured, one sentence part for each distinct condition."""
    distinct = {
        (
            f"{row[columns.DEVICE_NAME] or MISSING} ({row[columns.DEVICE] or MISSING}), batch {row[columns.BATCH]}, "
            f"{row[columns.HEIGHT]} × {row[columns.WIDTH]} pixels, {row[columns.PRECISION]}, "
            f"{_made(row)}torch {row[columns.TORCH_VERSION]}"
        ): None
        for row in record.architectures
        if row[columns.LATENCY_MS] is not None
    }
    return list(distinct)


def _made(row: dict[str, Any]) -> str:
    """Layout and compilation of the model that was measured; empty in runs from before they were recorded."""
    layout = (row[columns.MEMORY_FORMAT] or "").replace("_", " ")
    return (f"{layout}, " if layout else "") + ("compiled, " if row[columns.COMPILED] else "")


def _commands(record: Record) -> dict[str, str]:
    """What a reader may want to run next, and how."""
    searches = {
        f"Continue the search {run.name}" if len(record.runs) > 1 else "Continue the search": (
            f"python -m search.run {run.argument('resume')}"
        )
        for run in record.runs
    }
    return {"Write this report again": f"python -m search.report {arguments(record.runs)}"} | searches
