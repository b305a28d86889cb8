"""The Pareto plot as a picture, for slides, papers and READMEs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from search import columns
from search.luck import LUCK
from search.objectives import Row
from search.reporting.palette import Style, style
from search.reporting.record import Record, architecture_label, is_number
from search.reporting.wording import heading

_LARGEST_AREA = 900.0  # points^2
_SMALLEST_AREA = 25.0
_FRONT_OPACITY, _OPACITY = 0.95, 0.5
_SHARE_LABEL_BELOW = 0.05  # of the height: reference lines this close share one label
_DECADE_OF_TICKS = 10.0
_GREY = "#5d6878"
_MANY = 1_000
"""Marks of one architecture beyond which an SVG holds them as pixels: it would take megabytes otherwise."""
_PICTURE: Any = {"svg.fonttype": "none", "svg.hashsalt": "pareto"}
"""Text stays text, and the same run gives the same file."""


def write_pareto_figure(record: Record, stream: BinaryIO, kind: str = "png") -> None:
    """Draw mIoU against latency: area is size, hollow is short of the full budget, the line the best so far.

    Configurations that ran under several seeds are at their mean. Bars are the 95 % intervals of the front's members,
    and a question mark is where the place on the front could be luck.

    Args:
        record: the run.
        stream: where the picture goes.
        kind: ``png`` or ``svg``.
    """
    figure = Figure(figsize=(9, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = [
        row for row in record.configurations if is_number(row[columns.MIOU]) and is_number(row[columns.LATENCY_MS])
    ]
    if shown:
        _draw_trials(axes, record, shown)
        _draw_steps(axes, [row for row in shown if row[columns.STATE] == columns.COMPLETED])
        _draw_places(axes, record)
        _add_legend(axes)
        _label_axes(axes)
        _draw_references(axes, [entry for entry in record.data["references"] if is_number(entry["miou"])])
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No trial has mIoU and latency", ha="center", color=_GREY, transform=axes.transAxes)
    axes.set_title(record.run.name, loc="left", fontsize=12, parse_math=False)
    with warnings.catch_warnings(), matplotlib.rc_context(_PICTURE):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page shows such names
        figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else {})


def _draw_trials(axes: Axes, record: Record, rows: Sequence[Row]) -> None:
    front = {row[columns.TRIAL_ID] for row in record.front_rows}
    largest = max(map(_size, rows)) or 1.0
    for index, label in enumerate(record.labels):
        own = [row for row in rows if architecture_label(row) == label]
        if own:
            areas = [max(_SMALLEST_AREA, _LARGEST_AREA * _size(row) / largest) for row in own]
            _draw_architecture(axes, style(index), own, areas, [row[columns.TRIAL_ID] in front for row in own])
            axes.scatter([], [], s=40, marker=style(index).matplotlib_marker, color=style(index).color, label=label)
    if any(row[columns.STATE] != columns.COMPLETED for row in rows):
        axes.scatter([], [], s=40, facecolor="none", edgecolor=_GREY, label="short of full budget")


def _draw_architecture(axes: Axes, look: Style, rows: Sequence[Row], areas: list[float], member: list[bool]) -> None:
    full = [row[columns.STATE] == columns.COMPLETED for row in rows]
    opacity = [_FRONT_OPACITY if outlined else _OPACITY for outlined in member]
    axes.scatter(
        [row[columns.LATENCY_MS] for row in rows],
        [row[columns.MIOU] for row in rows],
        s=areas,
        marker=look.matplotlib_marker,
        facecolor=[to_rgba(look.color, alpha if filled else 0) for filled, alpha in zip(full, opacity, strict=True)],
        edgecolor=[to_rgba("black" if outlined else look.color, _FRONT_OPACITY) for outlined in member],
        linewidth=[1.6 if outlined else 0.6 for outlined in member],
        zorder=3,
        rasterized=len(rows) > _MANY,
    )


def _draw_places(axes: Axes, record: Record) -> None:
    """How sure the front's members are."""
    bar: dict[str, Any] = {"color": "black", "linewidth": 1, "zorder": 4}
    mark: dict[str, Any] = {"textcoords": "offset points", "fontsize": 12, "fontweight": "bold", "zorder": 5}
    for row in record.front_rows:
        place, latency_ms = record.places[row[columns.TRIAL_ID]], row[columns.LATENCY_MS]
        if place.interval is not None:
            axes.vlines(latency_ms, place.interval.low, place.interval.high, **bar)
        if place.verdict == LUCK:
            axes.annotate("?", (latency_ms, row[columns.MIOU]), (6, 0), va="center", **mark)
    if any(place.interval for place in record.places.values()):
        axes.plot([], [], color="black", linewidth=1, label="95 % interval of mIoU")
    if any(place.verdict == LUCK for place in record.places.values()):
        axes.scatter([], [], s=40, marker="$?$", color="black", label="place could be luck")


def _add_legend(axes: Axes) -> None:
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _size(row: Row) -> float:
    return row[columns.SIZE_MB] if is_number(row[columns.SIZE_MB]) else 0.0


def _draw_steps(axes: Axes, rows: Sequence[Row]) -> None:
    """The best mIoU among completed trials at or below each latency."""
    ordered = sorted(rows, key=lambda row: (row[columns.LATENCY_MS], -row[columns.MIOU]))
    x: list[float] = []
    y: list[float] = []
    for row in ordered:
        x.append(row[columns.LATENCY_MS])
        y.append(max(row[columns.MIOU], y[-1] if y else 0.0))
    axes.plot(x, y, drawstyle="steps-post", color="black", linewidth=1.2, alpha=0.7, zorder=2)


def _draw_references(axes: Axes, references: Sequence[dict[str, Any]]) -> None:
    """Dashed lines, labelled below, where trials seldom are; lines that lie close together share one label."""
    ordered = sorted(references, key=lambda entry: -entry["miou"])
    for entry in ordered:
        axes.axhline(entry["miou"], linestyle="--", linewidth=0.8, color=_GREY, zorder=1)
    low, high = axes.get_ylim()
    waiting: list[str] = []
    for entry, below in zip(ordered, [*ordered, None][1:], strict=True):
        waiting.append(f"{entry['label']} {entry['miou']:.3f}")
        if below is None or entry["miou"] - below["miou"] >= _SHARE_LABEL_BELOW * (high - low):
            _label_line(axes, "\n".join(waiting), entry["miou"])
            waiting = []
    if ordered:
        axes.set_ylim(bottom=min(low, ordered[-1]["miou"] - 0.1 * (high - low)))


def _label_line(axes: Axes, text: str, y: float) -> None:
    position: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    look: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8, "color": _GREY, "parse_math": False}
    axes.annotate(text, (1, y), (-4, -3), **position, **look)


def _label_axes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.margins(0.08)
    low, high = axes.get_xlim()
    few_ticks = high / low < _DECADE_OF_TICKS  # then 1, 2, 5 would leave an axis nearly without numbers
    axes.xaxis.set_major_locator(MaxNLocator(6) if few_ticks else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{heading(columns.LATENCY_MS)} (log scale)")
    axes.set_ylabel(heading(columns.MIOU))
    axes.grid(color="#e4e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
