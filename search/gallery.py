"""The gallery of a run: what the models of the Pareto front see in validation images.

::

    gallery/images/<index>.png        the image, RGB
    gallery/truth/<index>.png         its mask
    gallery/<trial_id>/<index>.png    what that model predicts
    gallery/gallery.json              which of these there are, and what they show

A few common images are there of every model, and of each model those in which it does best and worst on a class
(:func:`search.diagnosis.examples`). Masks are palette images: a pixel's value is the class index, ``IGNORE_INDEX``
where the truth does not count.
Reading needs neither torch nor Ray; :mod:`search.gallery_writer` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.files import write_text_atomically
from search.run_folder import RunError, RunFolder
from trainers.datasets import SegmentationClass

VERSION = 2
"""Of ``gallery.json``; raised when readers need other content than before."""
INDEX = "gallery.json"
IMAGES, TRUTH = "images", "truth"


@dataclass(frozen=True)
class GalleryImage:
    """A validation image that all models predicted."""

    index: int
    """Its position in the validation set."""
    name: str
    """What the user knows it by."""
    image: Path
    truth: Path
    predictions: Mapping[str, Path]
    """``trial_id`` to the mask that the trial's model predicts."""


@dataclass(frozen=True)
class View:
    """What one model sees in one validation image."""

    image: Path
    truth: Path
    prediction: Path


@dataclass(frozen=True)
class Gallery:
    """A gallery in ``folder``. Images go by their position in the validation set."""

    folder: Path
    names: Mapping[int, str]
    """The common images to their names, in the order shown."""
    classes: tuple[SegmentationClass, ...]
    ignored_color: tuple[int, int, int]
    """Red, green and blue in which the masks show pixels that do not count."""
    shown: Mapping[str, tuple[int, ...]]
    """``trial_id`` of the models that predicted, in the order of the front, to the images in which they are shown."""
    missing: Mapping[str, str]
    """``trial_id`` of the other models of the front to why they could not predict."""

    @property
    def members(self) -> tuple[str, ...]:
        """``trial_id`` of the models that predicted, in the order of the front."""
        return tuple(self.shown)

    @property
    def images(self) -> tuple[GalleryImage, ...]:
        """The common images, in the order shown."""
        return tuple(self._image(index, name) for index, name in self.names.items())

    def view(self, trial_id: str, index: int) -> View | None:
        """What a model sees in an image; none where its prediction was not kept, or files were removed since."""
        if index not in self.shown.get(trial_id, ()):
            return None
        files = [self.file(kind, index) for kind in (IMAGES, TRUTH, trial_id)]
        return View(*files) if all(file.is_file() for file in files) else None

    def file(self, kind: str, index: int) -> Path:
        """The picture of ``kind`` (``images``, ``truth`` or a ``trial_id``) of the image at ``index``."""
        return self.folder / kind / f"{index}.png"

    def _image(self, index: int, name: str) -> GalleryImage:
        predictions = {trial: self.file(trial, index) for trial in self.members}
        return GalleryImage(index, name, self.file(IMAGES, index), self.file(TRUTH, index), predictions)


def write_index(gallery: Gallery) -> None:
    """Write ``gallery.json``, once all that it names is there."""
    content = {
        "version": VERSION,
        "images": [{"index": index, "name": name} for index, name in gallery.names.items()],
        "classes": [{"name": item.name, "color": list(item.color)} for item in gallery.classes],
        "ignored_color": list(gallery.ignored_color),
        "members": [{"trial_id": trial, "images": list(images)} for trial, images in gallery.shown.items()],
        "missing": [{"trial_id": trial, "reason": reason} for trial, reason in gallery.missing.items()],
    }
    write_text_atomically(gallery.folder / INDEX, json.dumps(content, indent=1))


def read_gallery(run: RunFolder) -> Gallery | None:
    """The gallery of a run, or none where none was written.

    Raises:
        RunError: ``gallery.json`` cannot be read, or is of another version.
    """
    path = run.gallery / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise RunError(f"{path} has version {version!r}; this segmentation-search reads {VERSION}.")
    try:
        return _gallery(run.gallery, content)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not the index of a gallery: {error!r}.") from error


def _gallery(folder: Path, content: Mapping[str, Any]) -> Gallery:
    return Gallery(
        folder=folder,
        names={entry["index"]: entry["name"] for entry in content["images"]},
        classes=tuple(SegmentationClass(entry["name"], _color(entry["color"])) for entry in content["classes"]),
        ignored_color=_color(content["ignored_color"]),
        shown={entry["trial_id"]: tuple(entry["images"]) for entry in content["members"]},
        missing={entry["trial_id"]: entry["reason"] for entry in content["missing"]},
    )


def _color(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue
