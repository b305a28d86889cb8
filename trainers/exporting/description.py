"""``model.json``: what a program must know to run an exported model, read and checked without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.datasets import SegmentationClass
from trainers.settings import TrialError

VERSION = 1
"""Of ``model.json``; raised when readers need other content than before."""
INDEX, CARD, CONFIG = "model.json", "README.md", "config.yaml"
"""What lies beside every model file: the description for programs, the one for people, the trial's settings."""
FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "state_dict": "model.pt"}
"""The formats, and the name of the model file in each."""

Color = tuple[int, int, int]


class ExportError(TrialError):
    """A model that cannot be exported, or an exported one that cannot be used; the message is complete."""


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """Which batches (n, 3, height, width) an exported model takes."""

    height: int
    """As trained, in pixels."""
    width: int
    """As trained, in pixels."""
    any_batch: bool
    """Whether ``n`` is free; else it is 1."""
    any_size: bool
    """Whether height and width are free within the next two; else they are those of training."""
    multiple: int = 1
    """What height and width must be divisible by where they are free."""
    min_side: int = 1
    """And not be smaller than, in pixels."""
    reason: str | None = None
    """Why something is not free, for people; none when all is."""

    def describe(self) -> str:
        """Which batches it takes, as the end of a sentence."""
        images = "any number of images" if self.any_batch else "one image at a time"
        if not self.any_size:
            return f"{images} of {self.height} x {self.width} pixels (height x width) only"
        divisible = f" whose height and width {self.multiple} divides" if self.multiple > 1 else ""
        return f"{images} of any size from {self.min_side} x {self.min_side} pixels{divisible}"


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What running an exported model needs; ``model.json`` holds more, for people and other programs."""

    format: str
    """A key of :data:`FILES`."""
    sha256: str
    """Of the model file, in hexadecimal digits."""
    classes: tuple[SegmentationClass, ...]
    """In the order of the logits' channels."""
    ignored_color: Color
    """Red, green and blue of mask values that are no class."""
    input: InputShape
    config: Mapping[str, Any]
    """The trial's settings, which the format ``state_dict`` is built from."""
    torch_version: str
    """Of the export."""

    @property
    def file(self) -> str:
        """Name of the model file."""
        return FILES[self.format]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def export_folder(place: Path) -> Path:
    """The folder of an exported model that is named by itself or by a file in it.

    Raises:
        ExportError: there is no exported model.
    """
    folder = place if place.is_dir() else place.parent
    if not place.exists():
        raise ExportError(f"There is no exported model {place}. Make one with: python -m search.export")
    if not (folder / INDEX).is_file():
        raise ExportError(f"{folder} is not an exported model: it has no {INDEX}.")
    return folder


def read_description(folder: Path) -> ModelDescription:
    """Read ``model.json`` of an export, and make sure that the model file is the one that was checked.

    Raises:
        ExportError: it cannot be read, is of another version, lacks something, or belongs to another model file.
    """
    path = folder / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ExportError(f"{path} has version {version!r}; this segmentation-search reads {VERSION}.")
    try:
        description = _description(content)
    except ValueError as error:
        raise ExportError(f"{path} does not describe an exported model: {error}") from error
    _check_file(folder / description.file, description)
    return description


def _check_file(path: Path, description: ModelDescription) -> None:
    if not path.is_file():
        raise ExportError(f"{path} is missing: {INDEX} beside it describes it.")
    if file_sha256(path) != description.sha256:
        raise ExportError(
            f"{path} is not the file that was checked when it was exported: its SHA-256 is another than {INDEX} says. "
            "Export it again."
        )


def _description(content: Mapping[str, Any]) -> ModelDescription:
    kind = _get(content, "format", str)
    if kind not in FILES:
        raise ValueError(f"format must be one of {', '.join(FILES)}; got {kind!r}")
    classes = tuple(SegmentationClass(_get(item, "name", str), _color(item)) for item in _get(content, "classes", list))
    if not 1 <= len(classes) <= 255:
        raise ValueError(f"classes must be 1 to 255; got {len(classes)}")
    return ModelDescription(
        format=kind,
        sha256=_get(content, "sha256", str),
        classes=classes,
        ignored_color=_color(content, "ignored_color"),
        input=_input_shape(_get(content, "input", dict)),
        config=_get(content, "config", dict),
        torch_version=_get(_get(content, "versions", dict), "torch", str),
    )


def _input_shape(content: Mapping[str, Any]) -> InputShape:
    numbers = {name: _get(content, name, int) for name in ("height", "width", "multiple", "min_side")}
    for name, value in numbers.items():
        if not 1 <= value <= 65_535:
            raise ValueError(f"input.{name} must be 1 to 65535; got {value}")
    reason = content.get("reason")
    free = {name: _get(content, name, bool) for name in ("any_batch", "any_size")}
    return InputShape(**numbers, **free, reason=None if reason is None else str(reason))


def _color(content: object, key: str = "color") -> Color:
    values = _get(content, key, list)
    if len(values) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in values):
        raise ValueError(f"{key} must be red, green and blue from 0 to 255; got {values}")
    red, green, blue = values
    return red, green, blue


def _get(content: object, key: str, kind: type) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"an object with {key!r} is expected; got {content!r}")
    if key not in content:
        raise ValueError(f"{key!r} is missing")
    value = content[key]
    if type(value) is not kind:  # a bool is an int to isinstance
        raise ValueError(f"{key!r} must be of type {kind.__name__}; got {value!r}")
    return value
