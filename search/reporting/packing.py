"""Rows and numbers as the page carries them: many in few bytes, still JSON; ``core.js`` unpacks them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of the same keys as one column a key (:func:`packed_values`), and their number.

    A value that is a mapping in every row, of the same keys too, becomes such columns itself.
    """
    keys = list(rows[0]) if rows else []
    return {"count": len(rows), "columns": {key: _column([row[key] for row in rows]) for key in keys}}


def packed_values(values: Sequence[Any]) -> Any:
    """JSON values as their list; where they repeat, as the distinct ones and the places of all among these."""
    distinct: dict[str, Any] = {}
    for value in values:
        distinct.setdefault(repr(value), value)
    if 2 * len(distinct) > len(values):
        return list(values)
    places = {identity: place for place, identity in enumerate(distinct)}
    return {"values": list(distinct.values()), "places": [places[repr(value)] for value in values]}


def packed_numbers(values: NDArray[np.float64]) -> str:
    """Numbers in base64, four letters each: little-endian float32 rounded to its upper three bytes (16 bits)."""
    bits = values.astype("<f4").view("<u4")
    rounded = np.where(np.isnan(values), bits, bits + 0x80).astype("<u4")
    return base64.b64encode(rounded.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()).decode()


def _column(values: list[Any]) -> Any:
    return packed_rows(values) if isinstance(values[0], Mapping) else packed_values(values)
