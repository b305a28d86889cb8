"""Predicting a folder of images with an exported model: a mask and an overlay each; a bad file holds up no other."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainers.datasets.folder import EXTENSIONS
from trainers.datasets.samples import BadSampleError
from trainers.exporting.description import ExportError, ModelDescription
from trainers.exporting.pictures import Pixels, enlarge, palette, read_rgb, shrink, write_mask, write_overlay
from trainers.exporting.runners import Run

MASKS, OVERLAYS, LEGEND = "masks", "overlays", "classes.json"
"""What lies in the output folder."""


@dataclass(frozen=True)
class Job:
    """One image, and the names without suffix, below the output's folders, of what is written for it."""

    image: Path
    target: Path

    def outputs(self, output: Path) -> tuple[Path, Path]:
        """Mask and overlay."""
        name = self.target.name  # which may hold dots of its own
        return (
            output / MASKS / self.target.with_name(f"{name}.png"),
            output / OVERLAYS / self.target.with_name(f"{name}.jpg"),
        )


@dataclass(frozen=True)
class Outcome:
    """What came of a folder."""

    predicted: int
    bad: Sequence[str]
    """Files that could not be read, each with the reason."""
    seconds: float
    """Reading and writing included."""


def list_jobs(images: Path) -> tuple[list[Job], int]:
    """The images of a folder and all folders in it, sorted by path, or the one file; and how many files are no images.

    Outputs are called after the stems of the images, which is how a data set pairs masks with images; in a folder
    where two images share a stem, after their whole names.

    Raises:
        ExportError: there is nothing there, or no image.
    """
    if images.is_file():
        return [Job(images, Path(images.stem))], 0
    if not images.is_dir():
        raise ExportError(f"There is no folder or file images={images}.")
    folders: dict[Path, list[Path]] = defaultdict(list)
    others = 0
    for path in sorted(images.rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.suffix.lower() in EXTENSIONS:
            folders[path.parent].append(path)
        else:
            others += 1
    jobs = [job for paths in folders.values() for job in _folder_jobs(paths, images)]
    if not jobs:
        raise ExportError(f"{images} holds no image file ({', '.join(EXTENSIONS)}).")
    return jobs, others


def _folder_jobs(paths: Sequence[Path], root: Path) -> list[Job]:
    distinct = len({path.stem.lower() for path in paths}) == len(paths)
    return [Job(path, path.relative_to(root).with_name(path.stem if distinct else path.name)) for path in paths]


def check_output(output: Path, images: Path, jobs: Sequence[Job]) -> None:
    """Raise ExportError where outputs would become inputs of the next prediction, or take the place of images."""
    place, source = output.resolve(), images.resolve()
    if source.is_dir() and place.is_relative_to(source):
        raise ExportError(f"output={output} lies in images={images}: masks would be taken for images the next time.")
    inputs = {job.image.resolve() for job in jobs}
    taken = [path for job in jobs for path in job.outputs(place) if path.resolve() in inputs]
    if taken:
        raise ExportError(f"output={output}: {taken[0]} is one of the images and would be overwritten.")


def predict_images(
    run: Run,
    description: ModelDescription,
    jobs: Sequence[Job],
    output: Path,
    *,
    batch_size: int,
    say_done: Callable[[int], None],
) -> Outcome:
    """Write ``masks/<name>.png`` (class indices in class colours), ``overlays/<name>.jpg`` and ``classes.json``.

    Args:
        run: the model.
        description: what it is.
        jobs: the images.
        output: where to write.
        batch_size: images of one forward pass.
        say_done: told how many images are behind us, after each batch.

    Raises:
        OSError: ``output`` cannot be written.
    """
    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    _write_legend(description, output / LEGEND)
    bad: list[str] = []
    for start in range(0, len(jobs), batch_size):
        loaded = [(job, image) for job in jobs[start : start + batch_size] if (image := _read(job, bad)) is not None]
        if loaded:
            masks = _masks(run, description, [image for _, image in loaded])
            for (job, image), mask in zip(loaded, masks, strict=True):
                _write(job, image, mask, palette(description), output)
        say_done(min(start + batch_size, len(jobs)))
    return Outcome(len(jobs) - len(bad), bad, time.perf_counter() - started)


def _read(job: Job, bad: list[str]) -> Pixels | None:
    """The image; none, and a line more in ``bad``, where it cannot be read."""
    try:
        return read_rgb(job.image)
    except BadSampleError as error:
        bad.append(f"{job.image}: {error}")
        return None


def _masks(run: Run, description: ModelDescription, images: Sequence[Pixels]) -> list[Pixels]:
    """Class indices of each image at its own size."""
    size = description.input
    small = np.stack([shrink(image, size.height, size.width) for image in images])
    logits = run(np.ascontiguousarray(small.transpose(0, 3, 1, 2)))
    classes = logits.argmax(1).astype(np.uint8)
    return [enlarge(mask, *image.shape[:2]) for mask, image in zip(classes, images, strict=True)]


def _write(job: Job, image: Pixels, mask: Pixels, colors: Pixels, output: Path) -> None:
    mask_path, overlay_path = job.outputs(output)
    for path in (mask_path, overlay_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(mask, colors, mask_path)
    write_overlay(image, mask, colors, overlay_path)


def _write_legend(description: ModelDescription, path: Path) -> None:
    classes = [{"index": index} | asdict(item) for index, item in enumerate(description.classes)]
    path.write_text(json.dumps({"classes": classes}, indent=1, ensure_ascii=False), encoding="utf-8")
