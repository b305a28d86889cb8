"""The gallery of a run: written by tasks of a real Ray cluster, whole or not at all, and read without any of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cluster.connect import connect
from search import columns, gallery_writer
from search.gallery import Gallery, read_gallery
from search.gallery_writer import neutral_color, predict_member, spread, write_gallery
from search.repeats import Row
from search.resources import Share
from search.run_folder import RunError, RunFolder
from trainers.config import TrialConfig
from trainers.datasets import SegmentationClass, SegmentationData, Split
from trainers.loop import train
from trainers.prediction import predict

ROOT = Path(__file__).parents[2]
SHARE = Share(cpus=1, gpus=0, concurrent=2)
CLASSES = (
    SegmentationClass('<b>"dark"</b>', (10, 20, 30)),
    SegmentationClass("Straße, 草地", (200, 200, 0)),
    SegmentationClass("images", (255, 255, 255)),
)
CONFIG = TrialConfig().replace(
    {
        "data.height": 32,
        "data.width": 48,
        "model.size": "small",
        "model.base_channels": 4,
        "optimizer.lr": 1e-2,
        "training.epochs": 4,
        "training.batch_size": 4,
        "training.precision": "fp32",
        "training.device": "cpu",
    }
)
SEEDS = {"t0003": 0, "t0010": 1, "t0010-1": 2}


def made_up_split(images: int, seed: int) -> Split:
    """Noisy pictures whose brightness says the class of each quarter; a frame of two pixels does not count."""
    generator = np.random.default_rng(seed)
    quarters = generator.integers(3, size=(images, 2, 2))
    masks = quarters.repeat(16, axis=1).repeat(24, axis=2).astype(np.uint8)
    pixels = 90 * masks[..., None] + generator.integers(60, size=(*masks.shape, 3))
    masks[:, :2], masks[:, -2:], masks[:, :, :2], masks[:, :, -2:] = (255,) * 4
    return Split(pixels.astype(np.uint8), masks, tuple(f"val/№{index} <i>.png" for index in range(images)))


DATA = SegmentationData("made up", made_up_split(12, 0), made_up_split(11, 1), CLASSES, ())
SHOWN = (0, 2, 4, 6, 8, 10)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """A Ray cluster on this machine; here as in its tasks, torch has one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with connect(None):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with three trained models."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    for trial, seed in SEEDS.items():
        list(train(CONFIG.replace({"training.seed": seed}), DATA, run.trials / trial))
    return run


def member(trial: str, **values: Any) -> Row:
    config = CONFIG.replace({"training.seed": SEEDS.get(trial, 0)})
    return {columns.TRIAL_ID: trial, columns.CONFIG: json.dumps(config.to_dict())} | values


def pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        return np.asarray(picture)


def files(run: RunFolder) -> set[str]:
    """Everything in the gallery's folder, and what lies hidden beside it."""
    found = [path.relative_to(run.gallery) for path in run.gallery.rglob("*") if path.is_file()]
    return {str(path) for path in found} | {path.name for path in run.path.glob(".*")}


def expected_files(*kinds: str) -> set[str]:
    return {f"{kind}/{index}.png" for kind in kinds for index in SHOWN} | {"gallery.json"}


def written(run: RunFolder, *trials: str) -> Gallery:
    """The gallery of these members, as a reader finds it."""
    gallery = write_gallery(run, [member(trial) for trial in trials], DATA, SHARE)
    assert read_gallery(run) == gallery
    return gallery


def test_a_gallery_shows_images_truth_and_what_each_model_predicts(run: RunFolder) -> None:
    gallery = written(run, "t0010", "t0003", "t0010-1")
    assert gallery.classes == CLASSES
    assert gallery.members == ("t0010", "t0003", "t0010-1")
    assert gallery.missing == {}
    assert [(entry.index, entry.name) for entry in gallery.images] == [(i, f"val/№{i} <i>.png") for i in SHOWN]
    for entry in gallery.images:
        np.testing.assert_array_equal(pixels(entry.image, "RGB"), DATA.val.images[entry.index])
        np.testing.assert_array_equal(pixels(entry.truth, "P"), DATA.val.masks[entry.index])
        assert tuple(entry.predictions) == gallery.members
    for trial in gallery.members:
        config = TrialConfig.from_dict(json.loads(member(trial)[columns.CONFIG]))
        expected = predict(config, run.trials / trial / "best.pt", DATA, SHOWN, "cpu")
        shown = np.stack([pixels(entry.predictions[trial], "P") for entry in gallery.images])
        np.testing.assert_array_equal(shown, expected)
        assert len(np.unique(shown)) > 1
    assert files(run) == expected_files("images", "truth", *SEEDS)


def test_a_mask_has_the_colours_of_its_classes_to_whoever_opens_it(run: RunFolder) -> None:
    gallery = written(run, "t0003")
    entry = gallery.images[1]
    colors = {index: item.color for index, item in enumerate(CLASSES)} | {255: gallery.ignored_color}
    for path in (entry.truth, entry.predictions["t0003"]):
        with Image.open(path) as picture:
            seen = np.asarray(picture.convert("RGB"))
        for value in np.unique(pixels(path, "P")):
            assert {tuple(color) for color in seen[pixels(path, "P") == value].tolist()} == {colors[value]}
    assert gallery.ignored_color not in {item.color for item in CLASSES}


def test_a_gallery_written_anew_keeps_nothing_of_the_old_one(run: RunFolder) -> None:
    written(run, "t0003", "t0010")
    assert written(run, "t0010-1", "t0010").members == ("t0010-1", "t0010")
    assert files(run) == expected_files("images", "truth", "t0010-1", "t0010")


def test_a_model_that_cannot_predict_takes_no_other_down(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def mortal(config: str, checkpoint: Path, few: SegmentationData, threads: int) -> Any:
        if checkpoint.parent.name == "t0010":
            os._exit(1)
        if checkpoint.parent.name == "t0010-1":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict_member(config, checkpoint, few, threads)

    monkeypatch.setattr(gallery_writer, "predict_member", mortal)
    config = json.dumps({"model": {"architecture": "gone"}})
    rows = [*map(member, ("t0000", *SEEDS)), member("t0011", config=None), member("t0012", config=config)]
    gallery = write_gallery(run, rows, DATA, SHARE)
    assert read_gallery(run) == gallery
    assert gallery.members == ("t0003",)
    assert list(gallery.missing) == ["t0000", "t0010", "t0010-1", "t0011", "t0012"]
    assert gallery.missing["t0000"] == f"There is no checkpoint {run.trials.absolute() / 't0000' / 'best.pt'}."
    assert gallery.missing["t0010"].startswith("The process that predicted died: ")
    assert gallery.missing["t0010-1"] == "OutOfMemoryError: CUDA out of memory"
    assert gallery.missing["t0011"].startswith("TypeError: ")
    assert gallery.missing["t0012"].startswith("model.architecture must be one of ")
    assert files(run) == expected_files("images", "truth", "t0003")


@pytest.mark.parametrize("share", [Share(4096, 0, 1), Share(1, 512, 1)])
def test_a_cluster_without_room_does_not_hold_up_the_end(
    share: Share, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_writer, "WAIT_S", 1.0)
    monkeypatch.setattr(gallery_writer, "predict_member", lambda _config, _checkpoint, few, _threads: few.val.masks)
    gallery = write_gallery(run, [member("t0003")], DATA, share)
    assert gallery.missing == {"t0003": "The cluster gave no prediction within 1 s."}
    assert files(run) == expected_files("images", "truth")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_gallery_that_cannot_be_finished_leaves_the_old_one(
    error: BaseException, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(run, "t0003")

    def refuse(_: Gallery) -> None:
        raise error

    monkeypatch.setattr(gallery_writer, "write_index", refuse)
    with pytest.raises(type(error)):
        write_gallery(run, [member("t0010")], DATA, SHARE)
    assert read_gallery(run) == before
    assert files(run) == expected_files("images", "truth", "t0003")


def test_what_a_killed_writer_left_is_cleared(run: RunFolder) -> None:
    for name in (".gallery.partial", ".gallery.old"):
        (run.path / name / "t0000").mkdir(parents=True)
        (run.path / name / "t0000" / "0.png").write_bytes(b"half")
    written(run, "t0003")
    assert files(run) == expected_files("images", "truth", "t0003")


def test_an_empty_front_has_a_gallery_without_predictions(run: RunFolder) -> None:
    gallery = written(run)
    assert [entry.predictions for entry in gallery.images] == [{}] * 6


def test_a_small_validation_set_is_shown_whole(run: RunFolder) -> None:
    small = SegmentationData("small", DATA.train, made_up_split(2, 1), CLASSES, ())
    gallery = write_gallery(run, [member("t0003")], small, SHARE)
    assert list(gallery.names) == [0, 1]
    assert gallery.members == ("t0003",)


@pytest.mark.parametrize(
    ("total", "positions"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 2, 3, 4, 5]), (101, [0, 20, 40, 60, 80, 100])]
)
def test_shown_images_are_spread_over_the_set(total: int, positions: list[int]) -> None:
    assert list(spread(total, 6)) == positions


def test_no_image_is_shown_twice() -> None:
    assert {len(set(spread(total, 6))) for total in range(6, 200)} == {6}


def test_the_colour_of_ignored_pixels_is_no_classes() -> None:
    greys = [SegmentationClass(str(level), (level, level, level)) for level in range(256) if level != 77]
    assert neutral_color(greys) == (77, 77, 77)
    ends = [SegmentationClass("black", (0, 0, 0)), SegmentationClass("white", (255, 255, 255))]
    assert neutral_color(ends)[0] in (127, 128)


def test_without_a_gallery_there_is_none(tmp_path: Path) -> None:
    assert read_gallery(RunFolder(tmp_path)) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"version": 1, "images"', "cannot be read: "),
        ("[]", "has version None; this segmentation-search reads 1"),
        ('{"version": 99}', "has version 99; this segmentation-search reads 1"),
        ('{"version": 1, "images": []}', r"is not the index of a gallery: KeyError\('classes'\)"),
    ],
)
def test_an_index_that_is_none_is_named(content: str, reason: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.gallery.mkdir()
    (run.gallery / "gallery.json").write_text(content)
    with pytest.raises(RunError, match=rf"gallery\.json {reason}"):
        read_gallery(run)


def test_reading_needs_neither_torch_nor_ray() -> None:
    program = "import sys, search.gallery; print({'torch', 'ray', 'wandb', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
