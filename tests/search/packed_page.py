"""What a page carries, as its scripts unpack it: rows from columns, numbers from base64."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np


def data_of(page: str) -> dict[str, Any]:
    """The data behind the charts and tables of a page's HTML."""
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def unpacked_rows(packed: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that ``packed_rows`` was given."""
    held = {
        key: unpacked_rows(column) if "columns" in column else unpacked_values(column)
        for key, column in packed["columns"].items()
    }
    return [{key: values[index] for key, values in held.items()} for index in range(packed["count"])]


def unpacked_values(column: Any) -> list[Any]:
    """The values that ``packed_values`` was given."""
    return column if isinstance(column, list) else [column["values"][place] for place in column["places"]]


def unpacked_numbers(text: str) -> list[float]:
    """The numbers that ``packed_numbers`` was given, to its precision."""
    upper = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, 3)
    padded = np.concatenate([np.zeros((len(upper), 1), np.uint8), upper], axis=1)
    values: list[float] = np.frombuffer(padded.tobytes(), "<f4").tolist()
    return values
