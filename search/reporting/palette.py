"""Colours and marks of architectures: the same in the page and in the picture, legible on white and on black."""

from __future__ import annotations

from typing import NamedTuple

COLORS = (
    *("#3b82c4", "#e8891a", "#2a9d74", "#d1495b", "#8e6bbf"),
    *("#7f8c3a", "#c95fa0", "#3fa7b5", "#a6713d", "#6b7785"),
)
MARKS = (("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"))
"""Names in plotly and in matplotlib."""


class Style(NamedTuple):
    """How one architecture is drawn."""

    color: str
    plotly_symbol: str
    matplotlib_marker: str


def style(index: int) -> Style:
    """The style of the index-th architecture; marks change when the colours are used up."""
    mark = MARKS[index // len(COLORS) % len(MARKS)]
    return Style(COLORS[index % len(COLORS)], *mark)
