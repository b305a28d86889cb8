"""The examples of the front's models with their pictures: shrunk, as data URIs, each once, and no more than fit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.diagnosis import ModelDiagnosis, examples
from search.gallery import IMAGES, TRUTH, Gallery

LONG_SIDE_PX = 320
"""Longest side of a picture in the page."""
BUDGET_BYTES = 8_000_000
"""What all pictures may take as data URIs: more than half of a page of 15 MB, most of whose rest is Plotly."""
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises at a file that is gone, damaged or no picture."""


@dataclass(frozen=True)
class Examples:
    """The examples of all models as the page's script reads them, and what is not among them."""

    content: dict[str, Any]
    left_out: list[str]
    """``trial_id`` of the models of which pictures did not fit."""
    faults: dict[Path, str]
    """Picture file to why it cannot be shown."""


@dataclass
class Album:
    """Pictures of a gallery, up to ``budget`` bytes of data URIs."""

    gallery: Gallery
    budget: int
    uris: dict[str, int] = field(default_factory=dict)
    """Data URI to its place among them."""
    faults: dict[Path, str] = field(default_factory=dict)
    """Picture file to why it cannot be shown."""
    full: bool = False
    """Whether something did not fit; nothing is added from then on."""
    _places: dict[Path, int | None] = field(default_factory=dict)
    _bytes: int = 0

    def add(self, member: str, image: int) -> bool:
        """Take in the image, its truth and what ``member`` predicts; False once they do not fit."""
        files = [self.gallery.file(kind, image) for kind in (IMAGES, TRUTH, member)]
        if not self.full:
            found = {file: self._uri(file) for file in files if file not in self._places}
            new = sum(map(len, {uri for uri in found.values() if uri} - self.uris.keys()))
            self.full = self._bytes + new > self.budget
            if not self.full:
                self._bytes += new
                self._places |= {file: self._place(uri) for file, uri in found.items()}
        return all(file in self._places for file in files)

    def place(self, kind: str, image: int) -> int | None:
        """Where the picture is among :attr:`uris`; None where it could not be read or did not fit."""
        return self._places.get(self.gallery.file(kind, image))

    def _place(self, uri: str) -> int | None:
        return self.uris.setdefault(uri, len(self.uris)) if uri else None

    def _uri(self, file: Path) -> str:
        """Empty where the file cannot be read."""
        try:
            return photo_uri(file) if file.parent.name == IMAGES else mask_uri(file)
        except _UNREADABLE as error:
            self.faults[file] = (isinstance(error, OSError) and error.strerror) or str(error)
            return ""


def embed_examples(
    gallery: Gallery, image_names: Sequence[str], models: Sequence[ModelDiagnosis], budget: int
) -> Examples:
    """Per class of each model its best and worst image, and the images that all models share.

    Args:
        gallery: where the pictures lie.
        image_names: of all N validation images.
        models: the most important first: once a picture does not fit, none follows.
        budget: bytes that all data URIs may take.
    """
    album = Album(gallery, budget)
    members = {model.trial_id: _of_model(album, model, list(gallery.names)) for model in models}
    wanted = {image for entry in members.values() for image in entry["wanted"]}
    content = {
        "common": list(gallery.names),
        "ignored": list(gallery.ignored_color),
        "pictures": list(album.uris),
        "images": {
            image: {"name": image_names[image], "image": album.place(IMAGES, image), "truth": album.place(TRUTH, image)}
            for image in sorted(wanted)
        },
        "members": members,
    }
    left_out = [trial for trial, entry in members.items() if len(entry["predictions"]) < len(entry["wanted"])]
    return Examples(content, left_out, album.faults)


def _of_model(album: Album, model: ModelDiagnosis, common: Sequence[int]) -> dict[str, Any]:
    """Examples as class, kind, image and IoU; the IoU of each class in the common images; and the predictions.

    ``predictions`` has the pictures of the ``wanted`` images that fit, the weakest class first; null if unreadable.
    """
    found = examples(model)
    ranks = np.argsort(np.argsort(model.iou))
    ranked = sorted(found, key=lambda example: int(ranks[example.class_index]))
    wanted = list(dict.fromkeys([*common, *(example.image for example in ranked)]))
    fitting = [image for image in wanted if album.add(model.trial_id, image)]
    return {
        "examples": [[item.class_index, item.kind, item.image, round(item.iou, 4)] for item in found],
        "ious": {image: numbers(model.image_iou[image]) for image in common},
        "wanted": wanted,
        "predictions": {image: album.place(model.trial_id, image) for image in fitting},
    }


def numbers(values: NDArray[np.float64]) -> list[float | None]:
    """A vector for JSON: four decimals, None for NaN."""
    return [round(value, 4) if np.isfinite(value) else None for value in values.tolist()]


def photo_uri(file: Path) -> str:
    """A photograph as a data URI, at most :data:`LONG_SIDE_PX` on its longer side."""
    with Image.open(file) as picture:
        shrunk = picture.convert("RGB")
    shrunk.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX))
    return _data_uri(shrunk, "webp", quality=80, method=2)


def mask_uri(file: Path) -> str:
    """A palette image as a data URI, at most :data:`LONG_SIDE_PX` on its longer side, with none but its own colours.

    Raises:
        ValueError: it has no palette.
    """
    with Image.open(file) as picture:
        picture.load()
        if picture.mode != "P":
            raise ValueError(f"a mask is a palette image; this one is {picture.mode}")
        picture.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.NEAREST)
        used: Iterable[tuple[int, int]] = picture.getcolors()  # type: ignore[assignment]  # 256 values: never too many
        return _data_uri(picture.remap_palette(sorted(value for _, value in used)), "png", optimize=True)


def _data_uri(picture: Image.Image, kind: str, **options: int) -> str:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
