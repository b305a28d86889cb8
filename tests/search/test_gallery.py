"""The gallery of a run on disk: pictures that show what they say, and an index that is read without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from search.gallery import Gallery, View, read_gallery
from search.gallery_writer import GalleryWriter
from search.run_folder import RunError, RunFolder
from trainers.datasets import SegmentationClass, SegmentationData, Split

ROOT = Path(__file__).parents[2]
CLASSES = (
    SegmentationClass('<b>"dark"</b>', (10, 20, 30)),
    SegmentationClass("Straße, 草地", (200, 200, 0)),
    SegmentationClass("images", (255, 255, 255)),
)
COMMON = (0, 2, 4, 6, 8, 10)


def made_up_split(images: int) -> Split:
    generator = np.random.default_rng(images)
    masks = generator.integers(3, size=(images, 9, 7), dtype=np.uint8)
    masks[:, :2] = 255
    pixels = generator.integers(256, size=(*masks.shape, 3), dtype=np.uint8)
    return Split(pixels, masks, tuple(f"val/№{index} <i>.png" for index in range(images)))


DATA = SegmentationData("made up", made_up_split(1), made_up_split(11), CLASSES, ())


def seen(seed: int) -> NDArray[np.uint8]:
    """What a model may predict in all images."""
    return np.random.default_rng(seed).integers(3, size=DATA.val.masks.shape, dtype=np.uint8)


def pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        return np.asarray(picture)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def gallery(run: RunFolder) -> Gallery:
    """Two models, shown in an image more each, and one that could not predict."""
    run.gallery.mkdir()
    writer = GalleryWriter(run.gallery, DATA)
    for trial, more in (("t0010", 7), ("t0003", 1)):
        writer.add(trial, {index: seen(more)[index] for index in (more, *COMMON)})
    writer.finish(["t0003", "t0010"], {"t0001": "<b>There</b> is no checkpoint"})
    found = read_gallery(run)
    assert found is not None
    return found


def test_a_gallery_is_read_as_it_was_written(gallery: Gallery) -> None:
    assert gallery.classes == CLASSES
    assert gallery.members == ("t0003", "t0010")
    assert gallery.shown == {"t0003": (0, 1, 2, 4, 6, 8, 10), "t0010": (0, 2, 4, 6, 7, 8, 10)}
    assert gallery.missing == {"t0001": "<b>There</b> is no checkpoint"}
    files = {str(path.relative_to(gallery.folder)) for path in gallery.folder.rglob("*") if path.is_file()}
    pictures = {(kind, index) for kind in ("images", "truth") for index in (1, 7, *COMMON)}
    pictures |= {("t0003", index) for index in (1, *COMMON)} | {("t0010", index) for index in (7, *COMMON)}
    assert files == {f"{kind}/{index}.png" for kind, index in pictures} | {"gallery.json"}


def test_common_images_are_there_of_every_model(gallery: Gallery) -> None:
    assert [(entry.index, entry.name) for entry in gallery.images] == [(i, f"val/№{i} <i>.png") for i in COMMON]
    for entry in gallery.images:
        np.testing.assert_array_equal(pixels(entry.image, "RGB"), DATA.val.images[entry.index])
        np.testing.assert_array_equal(pixels(entry.truth, "P"), DATA.val.masks[entry.index])
        assert tuple(entry.predictions) == gallery.members
        np.testing.assert_array_equal(pixels(entry.predictions["t0003"], "P"), seen(1)[entry.index])
        np.testing.assert_array_equal(pixels(entry.predictions["t0010"], "P"), seen(7)[entry.index])


def test_a_view_is_what_one_model_sees_in_one_image(gallery: Gallery) -> None:
    view = gallery.view("t0010", 7)
    assert view is not None
    np.testing.assert_array_equal(pixels(view.image, "RGB"), DATA.val.images[7])
    np.testing.assert_array_equal(pixels(view.truth, "P"), DATA.val.masks[7])
    np.testing.assert_array_equal(pixels(view.prediction, "P"), seen(7)[7])
    entry = gallery.images[1]
    assert gallery.view("t0003", 2) == View(entry.image, entry.truth, entry.predictions["t0003"])


@pytest.mark.parametrize(("trial", "index"), [("t0003", 7), ("t0003", 3), ("t0001", 0), ("t0099", 0)])
def test_there_is_no_view_of_what_was_not_kept(trial: str, index: int, gallery: Gallery) -> None:
    assert gallery.view(trial, index) is None


@pytest.mark.parametrize("kind", ["images", "truth", "t0010"])
def test_there_is_no_view_of_what_was_removed(kind: str, gallery: Gallery) -> None:
    gallery.file(kind, 7).unlink()
    assert gallery.view("t0010", 7) is None
    assert gallery.view("t0010", 6) is not None


def test_a_mask_has_the_colours_of_its_classes_to_whoever_opens_it(gallery: Gallery) -> None:
    entry = gallery.images[1]
    colors = {index: item.color for index, item in enumerate(CLASSES)} | {255: gallery.ignored_color}
    for path in (entry.truth, entry.predictions["t0003"]):
        with Image.open(path) as picture:
            shown = np.asarray(picture.convert("RGB"))
        for value in np.unique(pixels(path, "P")):
            assert {tuple(color) for color in shown[pixels(path, "P") == value].tolist()} == {colors[value]}
    assert gallery.ignored_color not in {item.color for item in CLASSES}


def test_an_empty_front_has_a_gallery_without_predictions(run: RunFolder) -> None:
    run.gallery.mkdir()
    GalleryWriter(run.gallery, DATA).finish([], {})
    gallery = read_gallery(run)
    assert gallery is not None
    assert [entry.predictions for entry in gallery.images] == [{}] * 6


def test_a_small_validation_set_is_shown_whole(run: RunFolder) -> None:
    run.gallery.mkdir()
    GalleryWriter(run.gallery, SegmentationData("small", DATA.train, made_up_split(2), CLASSES, ())).finish([], {})
    gallery = read_gallery(run)
    assert gallery is not None
    assert list(gallery.names) == [0, 1]


def test_without_a_gallery_there_is_none(tmp_path: Path) -> None:
    assert read_gallery(RunFolder(tmp_path)) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"version": 2, "images"', "cannot be read: "),
        ("[]", "has version None; this segmentation-search reads 2"),
        ('{"version": 99}', "has version 99; this segmentation-search reads 2"),
        ('{"version": 2, "images": []}', r"is not the index of a gallery: KeyError\('classes'\)"),
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
