"""``python -m search.predict``: any image in, masks and overlays out, with nothing but an exported folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from export_samples import TINY, exportable_run
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from told import Told, tell

from search.export import ExportConfig, export
from search.predict import main
from trainers.checkpoint import Checkpoints
from trainers.datasets.samples import BadSampleError
from trainers.exporting.pictures import read_rgb
from trainers.loop import compute_logits
from trainers.prediction import load_model

ROOT = Path(__file__).parents[2]
KINDS = ("onnx", "torch_export", "state_dict")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Kept:
    """Exports in every format whose run and data set are gone."""

    folder: Path
    images: Pixels
    """Validation images (n, 48, 64, 3)."""
    classes: Pixels
    """What the trained model makes of them in float32 (n, 48, 64)."""
    colors: list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    place = tmp_path_factory.mktemp("runs")
    run, data = exportable_run(place / "mine")
    folder = tmp_path_factory.mktemp("kept")
    for kind in KINDS:
        config = ExportConfig(runs=str(place), trial="t0001", format=kind, output=str(folder / kind))
        export(config, Console(quiet=True))
    model = load_model(TINY, Checkpoints(run.trials / "t0001").best, data).eval()
    images = np.array(data.val.images)
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        classes = compute_logits(model, pixels, torch.device("cpu"), "fp32").argmax(1).numpy().astype(np.uint8)
    shutil.rmtree(place)
    return Kept(folder, images, classes, [item.color for item in data.classes])


@pytest.fixture
def predict(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Told]:
    """Run the command in this process, with the ONNX model unless another is named, in an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*arguments: str) -> Told:
        named = any(item.startswith("model=") for item in arguments)
        model = [] if named else [f"model={kept.folder / 'onnx'}"]
        return tell(main, [*model, *arguments], capfd)

    return call


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An empty folder of images."""
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def mask_of(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        return np.asarray(picture)


def written(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_predicts_what_the_trained_model_does(
    kind: str, kept: Kept, images: Path, predict: Callable[..., Told]
) -> None:
    for index, image in enumerate(kept.images):
        Image.fromarray(image).save(images / f"{index}.png")
    told = predict(f"model={kept.folder / kind}", f"images={images}", "batch_size=4")
    assert (told.code, told.err) == (0, "")
    count = len(kept.images)
    assert told.out.startswith(f"{count} images in ")
    assert " images/s)\n" in told.out
    masks = np.stack([mask_of(Path("predictions/masks") / f"{index}.png") for index in range(count)])
    assert (masks != kept.classes).mean() < 1e-4
    assert len(np.unique(masks)) > 1
    assert len(written(Path("predictions"))) == 2 * count + 1


def test_a_mask_and_its_overlay_show_the_colours_of_the_classes(
    kept: Kept, images: Path, predict: Callable[..., Told]
) -> None:
    Image.fromarray(kept.images[0]).save(images / "a.png")
    model = kept.folder / "onnx" / "model.onnx"
    assert predict(f"model={model}", f"images={images / 'a.png'}", "output=out").code == 0
    mask, colors = mask_of(Path("out/masks/a.png")), np.array(kept.colors, np.uint8)
    with Image.open("out/masks/a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colors[mask])
    with Image.open("out/overlays/a.jpg") as picture:
        assert picture.format == "JPEG"
        shown = np.asarray(picture).astype(float)
    blended = (kept.images[0].astype(float) + colors[mask]) / 2
    assert abs(shown - blended).mean() < 8
    legend = json.loads(Path("out/classes.json").read_text())["classes"]
    assert [entry["index"] for entry in legend] == list(range(len(colors)))
    assert [tuple(entry["color"]) for entry in legend] == kept.colors


def test_images_of_every_kind_and_size_are_read_as_for_training(
    kept: Kept, images: Path, predict: Callable[..., Told]
) -> None:
    image = kept.images[1]
    double = image.repeat(2, axis=0).repeat(2, axis=1)
    grey = image.mean(axis=2).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned clockwise
    Image.fromarray(double).save(images / "double.png")
    Image.fromarray(np.rot90(image).copy()).save(images / "turned.png", exif=turned)
    Image.fromarray(np.dstack([image, np.full(grey.shape, 9, np.uint8)])).save(images / "transparent.png")
    Image.fromarray(grey).save(images / "grey.png")
    Image.fromarray(np.dstack([grey] * 3)).save(images / "grey_rgb.tiff")
    Image.fromarray(grey.astype(np.uint16) * 257).save(images / "deep.png")
    Image.fromarray(image).quantize(16).save(images / "palette.bmp")
    Image.fromarray(image[:5, :7]).save(images / "tiny.webp", lossless=True)
    assert predict(f"images={images}").code == 0
    masks = {path.stem: mask_of(path) for path in Path("predictions/masks").iterdir()}
    assert (masks["transparent"] != kept.classes[1]).mean() < 1e-4
    np.testing.assert_array_equal(masks["turned"], masks["transparent"])
    np.testing.assert_array_equal(masks["double"], masks["transparent"].repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(masks["grey"], masks["grey_rgb"])
    np.testing.assert_array_equal(masks["grey"], masks["deep"])
    assert masks["palette"].shape == (48, 64)
    assert masks["tiny"].shape == (5, 7)


def test_bad_files_are_named_and_the_rest_goes_on(kept: Kept, images: Path, predict: Callable[..., Told]) -> None:
    (images / "a.png").write_bytes(b"no image")
    Image.fromarray(kept.images[0]).save(images / "b.png")
    (images / "c.jpg").write_bytes((images / "b.png").read_bytes()[:500])
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(images / "d.tif")
    (images / "notes.txt").write_text("no image")
    told = predict(f"images={images}", "batch_size=1")
    assert told.code == 1
    assert told.out.startswith("1 images in ")
    assert "; 1 other files are no images" in told.out
    lines = told.err.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        str(images / name) for name in ("a.png", "c.jpg", "d.tif")
    ]
    assert written(Path("predictions")) == {"classes.json", "masks/b.png", "overlays/b.jpg"}


def test_names_are_kept_apart_and_folders_kept(kept: Kept, images: Path, predict: Callable[..., Told]) -> None:
    (images / "sub" / "deep").mkdir(parents=True)
    (images / ".hidden.png").write_bytes(b"")
    picture = Image.fromarray(kept.images[0])
    for name in ("a.png", "a.jpg", "b.v2.png", "sub/a.png", "sub/b.png", "sub/deep/a.png"):
        picture.save(images / name)
    assert predict(f"images={images}").code == 0
    names = {"a.png", "a.jpg", "b.v2.png", "sub/a", "sub/b", "sub/deep/a"}
    expected = {f"masks/{name}.png" for name in names} | {f"overlays/{name}.jpg" for name in names}
    assert written(Path("predictions")) == expected | {"classes.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images=nowhere"], "There is no folder or file images=nowhere."),
        (["images=empty"], "empty holds no image file (.png, "),
        ([], "images must be a folder of images or one image; got None."),
        (["images=full", "model=nowhere"], "There is no exported model nowhere."),
        (["images=full", "model=empty"], "empty is not an exported model: it has no model.json."),
        (["images=full", "output=full"], "output=full lies in images=full"),
        (["images=full", "output=full/sub"], "output=full/sub lies in images=full"),
        (["images=out/masks", "output=out"], "is one of the images and would be overwritten."),
        (["images=full", "device=gpu"], "device must be one of cpu, cuda; got 'gpu'."),
        (["images=full", "batch_size=0"], "batch_size must be at least 1; got 0."),
        (["image=full"], "There is no setting 'image'. Did you mean images?"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    arguments: list[str], message: str, kept: Kept, predict: Callable[..., Told]
) -> None:
    for folder in ("full", "empty", "out/masks"):
        Path(folder).mkdir(parents=True)
    for folder in ("full", "out/masks"):
        Image.fromarray(kept.images[0]).save(Path(folder) / "a.png")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    told = predict(*arguments)
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.code == 2
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_model_file_that_was_changed_is_refused(
    kept: Kept, images: Path, predict: Callable[..., Told], tmp_path: Path
) -> None:
    Image.fromarray(kept.images[0]).save(images / "a.png")
    shutil.copytree(kept.folder / "onnx", tmp_path / "changed")
    with (tmp_path / "changed" / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    told = predict(f"model={tmp_path / 'changed'}", f"images={images}")
    assert told.code == 2
    assert "is not the file that was checked when it was exported" in told.err
    assert not Path("predictions").exists()


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(BadSampleError, match="pixel values from 0 to 70000; 8 and 16 bits can be read"):
        read_rgb(tmp_path / "a.tif")


def test_an_onnx_model_needs_no_torch(kept: Kept, images: Path, tmp_path: Path) -> None:
    Image.fromarray(kept.images[0]).save(images / "a.png")
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'ray', 'wandb')))\n"
        "from search.predict import main; main()"
    )
    line = [sys.executable, "-c", program, f"model={kept.folder / 'onnx'}", f"images={images}"]
    done = subprocess.run(
        line, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (mask_of(tmp_path / "predictions" / "masks" / "a.png") != kept.classes[0]).mean() < 1e-4
