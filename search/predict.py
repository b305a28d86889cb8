"""``python -m search.predict model=<folder> images=<folder>``: masks and overlays from an exported model alone."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from search.command_line import run_command
from search.console import sayer
from trainers.exporting.description import export_folder, read_description
from trainers.exporting.prediction import MASKS, OVERLAYS, Outcome, check_output, list_jobs, predict_images
from trainers.exporting.runners import DEVICES, open_model
from trainers.settings import choose, require

HELP = """\
Segment images with an exported model. Nothing is needed but its folder: neither the run nor the data set.

  python -m search.predict model=FOLDER images=FOLDER [output=DIR] [device=cpu] [batch_size=8]

  model=FOLDER    what python -m search.export wrote, or the model file in it
  images=FOLDER   images of any size, also in subfolders; or one image
  output=DIR      where masks/, overlays/ and classes.json go; default: predictions
  device=DEVICE   cpu or cuda; default: cpu
  batch_size=N    images of one forward pass; default: 8

A mask is a PNG whose values are the class indices, shown in the colours of the classes, at the size of its image.
Open models of the format torch_export only from people you trust: reading one can run code.

Example
  python -m search.predict model=runs/quickstart-20260101-120000/export/t0003-onnx images=~/pictures
"""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The settings of the command."""

    model: str | None = None
    """Folder of an exported model, or a file in it."""
    images: str | None = None
    """Folder of images, or one image."""
    output: str = "predictions"
    """Where masks and overlays go."""
    device: str = "cpu"
    """One of :data:`~trainers.exporting.runners.DEVICES`."""
    batch_size: int = 8
    """Images of one forward pass."""

    def __post_init__(self) -> None:
        require(self.model is not None, "model", "the folder of an exported model", self.model)
        require(self.images is not None, "images", "a folder of images or one image", self.images)
        choose("device", self.device, DEVICES)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)


def predict(config: PredictConfig, console: Console) -> Outcome:
    """Predict as the settings say.

    Raises:
        ExportError: no model, no images, or an output folder that cannot be; nothing was written.
        OSError: the output cannot be written.
    """
    assert config.model is not None
    assert config.images is not None
    folder = export_folder(Path(config.model).expanduser())
    images, output = Path(config.images).expanduser(), Path(config.output).expanduser()
    description = read_description(folder)
    jobs, others = list_jobs(images)
    check_output(output, images, jobs)
    run = open_model(folder, description, config.device)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Predicting", total=len(jobs))
        outcome = predict_images(
            run,
            description,
            jobs,
            output,
            batch_size=config.batch_size,
            say_done=lambda done: progress.update(task, completed=done),
        )
    say = sayer(console)
    speed = outcome.predicted / outcome.seconds
    skipped = f"; {others} other files are no images" if others else ""
    say(f"{outcome.predicted} images in {outcome.seconds:.1f} s ({speed:.1f} images/s){skipped}")
    if outcome.predicted:
        say(f"Written: {shlex.quote(str(output))} ({MASKS}, {OVERLAYS}, classes.json)")
    return outcome


def _predict(config: PredictConfig) -> None:
    outcome = predict(config, Console())
    for line in outcome.bad:
        print(f"Not predicted: {line}", file=sys.stderr)
    if outcome.bad:
        sys.exit(1)


def main() -> None:
    """Entry point."""
    run_command("predict", PredictConfig, HELP, _predict, "what was predicted stays.")


if __name__ == "__main__":
    main()
