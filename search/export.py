"""``python -m search.export run=<name>``: a trained model of a run, written, checked and described."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from search import columns
from search.command_line import RunChoice, quoted_lists, run_command
from search.console import sayer
from search.files import replaced_folder
from search.reporting.record import read_record
from search.reporting.wording import written
from search.run_folder import RunError
from search.stored_run import fetch_best
from trainers.config import DataConfig
from trainers.datasets import DataError, SegmentationData, open_dataset
from trainers.exporting.description import CARD, CONFIG, FILES, INDEX, VERSION
from trainers.settings import choose

if TYPE_CHECKING:  # torch comes with it, which a misspelt setting should not wait for
    from trainers.exporting.export import Exported

HELP = """\
Write a trained model of a run for use elsewhere, check the file against the trained model on validation images, and
describe it in a model card. It takes uint8 RGB images: normalisation is inside (but for format=state_dict, which is the
weights alone).

  python -m search.export [run=NAME] [runs=DIR] [storage=URI] [trial=TRIAL] [format=FORMAT] [output=DIR]
                          [data.root=DIR]

  run=NAME        name of the run; default: the latest
  runs=DIR        folder of all runs; default: runs
  storage=URI     bring the run and the model from there first; a run that has a storage needs it not said again
  trial=TRIAL     best (highest mIoU of the front), knee (its compromise), fastest (within 1 point of the best), or the
                  id of a trial; default: best
  format=FORMAT   onnx, torch_export (.pt2) or state_dict (.pt); default: onnx
  output=DIR      folder to write; default: <run>/export/<trial>-<format>
  data.root=DIR   where the data set lies now, if it was moved; also data.classes, data.cache

Examples
  python -m search.export
  python -m search.export run=quickstart-20260101-120000 trial=knee format=torch_export
"""


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """Where the data set lies, if not where the trial found it."""

    root: str | None = None
    classes: str | None = None
    cache: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportConfig(RunChoice):
    """The settings of the command."""

    trial: str = "best"
    """A key of :data:`~search.trained.PICKS`, or the id of a trial."""
    format: str = "onnx"
    """A key of :data:`~trainers.exporting.description.FILES`."""
    output: str | None = None
    """Folder to write, by default one in the run's folder."""
    data: DataPlace = field(default_factory=DataPlace)

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("format", self.format, tuple(FILES))


def require_replaceable(place: Path) -> None:
    """Refuse a folder that holds anything but an earlier export.

    Raises:
        RunError: naming what is there.
    """
    if not place.exists():
        return
    if not place.is_dir():
        raise RunError(f"output={place} is a file; name a folder.")
    present = {path.name for path in place.iterdir()}
    strangers = sorted(present - {INDEX, CARD, CONFIG, *FILES.values()})
    if strangers:
        raise RunError(f"{place} holds files that no export wrote ({', '.join(strangers[:3])}). Set output=<folder>.")
    if present and not _is_export(place / INDEX):
        raise RunError(f"{place} is not an earlier export: it has no {INDEX} of one. Set output=<folder>.")


def _is_export(index: Path) -> bool:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("version") == VERSION and "sha256" in content


def export(config: ExportConfig, console: Console) -> Path:
    """Export as the settings say; returns the folder, which is whole or not there.

    Raises:
        TrialError, RunError: nothing was written; the message is complete.
    """
    record = read_record(config.find())
    from search.trained import choose_trial, describe_trial  # noqa: PLC0415 - torch comes with it
    from trainers.exporting.export import export_model  # noqa: PLC0415

    say = sayer(console)
    row = choose_trial(record, config.trial)
    trial = row[columns.TRIAL_ID]
    fetch_best(record.run, config.storage, trial)
    place = record.run.path / "export" / f"{trial}-{config.format}"
    if config.output is not None:
        place = Path(config.output).expanduser().resolve()
    require_replaceable(place)
    trained = describe_trial(record, row)
    say(f"Trial {trial} of run {record.run.name}, mIoU {written(columns.MIOU, row[columns.MIOU])}, as {config.format}")
    data = open_data(trained.config.data, config.data)
    with console.status("Writing and checking"), replaced_folder(place) as folder:
        exported = export_model(trained, data, folder, config.format)
    _report(exported, place, say)
    return place


def open_data(trained_on: DataConfig, moved: DataPlace) -> SegmentationData:
    """The data set that the trial was trained on, where it lies now.

    Raises:
        DataError: it cannot be opened, so nothing can be checked.
    """
    changes = {name: value for name, value in asdict(moved).items() if value is not None}
    try:
        return open_dataset(replace(trained_on, **changes))
    except DataError as error:
        raise DataError(
            f"{error} Without its validation images the exported model cannot be checked, and nothing was written. "
            "If the data set was moved, say where it is with data.root=<folder>."
        ) from error


def _report(exported: Exported, place: Path, say: Callable[[str], None]) -> None:
    description = exported.description
    for note in exported.notes:
        say(f"Note: {note}")
    say(f"Checked on {exported.check.describe()}")
    say(f"It takes {description.input.describe()}.")
    size_mb = (place / description.file).stat().st_size / 1e6
    say(f"Export: {place} ({description.file}, {size_mb:.2f} MB; {CARD} is the model card)")
    say(f"Use it: python -m search.predict model={shlex.quote(str(place))} images=<folder>")


def _export(config: ExportConfig) -> None:
    export(config, Console())


def main() -> None:
    """Entry point."""
    sys.argv[1:] = quoted_lists(sys.argv[1:])
    run_command("export", ExportConfig, HELP, _export, "nothing was written.")


if __name__ == "__main__":
    main()
