"""Exported models: what is promised of a file holds, a changed weight does not pass, the card's code runs."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from exporting_samples import CLASSES, HEIGHT, WIDTH, configuration, made_up_data, untrained
from torch import nn

from trainers.config import TrialConfig
from trainers.datasets import IGNORE_INDEX
from trainers.exporting import export as exporting
from trainers.exporting import served
from trainers.exporting.check import check_images, check_shapes, promised_shapes
from trainers.exporting.description import FILES, INDEX, ExportError, InputShape, export_folder, read_description
from trainers.exporting.export import Exported, TrainedModel, export_model
from trainers.exporting.formats import possible_shapes, write_model
from trainers.exporting.runners import one_by_one, open_model
from trainers.exporting.served import AreaMeans, ServedModel
from trainers.loop import compute_logits
from trainers.models import build_model
from trainers.prediction import load_model

DATA = made_up_data()
UNET = configuration(size="small", base_channels=4)
PSPNET = configuration(architecture="pspnet", backbone="resnet18", decoder_channels=8)
DILATED = configuration(architecture="deeplab", backbone="vgg11_bn", output_stride=8, aspp=False, decoder_channels=8)
LATENCY = {"latency_ms": 1.5, "latency_p95_ms": 2.0, "device": "cpu", "device_name": "A <processor>", "batch": 1}
CONDITIONS = {"precision": "fp32", "height": HEIGHT, "width": WIDTH, "torch_version": "2.15.0"}


@dataclasses.dataclass(frozen=True)
class Sample:
    """An export with the model that it is of."""

    folder: Path
    trained: TrainedModel
    exported: Exported
    model: nn.Module


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """A small UNet in every format."""
    return {kind: make_export(tmp_path_factory.mktemp(kind), kind) for kind in FILES}


def make_export(place: Path, kind: str) -> Sample:
    trained = untrained(UNET, place / "trial", latency=[LATENCY | CONDITIONS], notes=["Nobody <b>checked</b> it."])
    folder = place / "export"
    folder.mkdir()
    exported = export_model(trained, DATA, folder, kind)
    return Sample(folder, trained, exported, load_model(trained.config, trained.checkpoint, DATA).eval())


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def trained_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return compute_logits(model, images, torch.device("cpu"), "fp32")


@pytest.mark.parametrize("kind", FILES)
def test_a_file_does_as_the_model_at_every_shape_that_it_promises(kind: str, exports: dict[str, Sample]) -> None:
    sample = exports[kind]
    description = read_description(sample.folder)
    assert description == sample.exported.description
    assert description.classes == CLASSES
    assert (description.input.any_batch, description.input.any_size, description.input.reason) == (True, True, None)
    assert description.input.multiple == (1 if kind == "state_dict" else 4)
    run = open_model(sample.folder, description)
    for shape in ((1, 3, 32, 44), (5, 3, HEIGHT, WIDTH), (2, 3, 100, 52)):
        logits = run(noise(*shape).numpy())
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, trained_logits(sample.model, noise(*shape)), atol=1e-5)
    assert {path.name for path in sample.folder.iterdir()} == {FILES[kind], INDEX, "README.md", "config.yaml"}


@pytest.mark.parametrize("kind", FILES)
def test_the_check_says_what_it_compared(kind: str, exports: dict[str, Sample]) -> None:
    check = exports[kind].exported.check
    assert (check.images, check.val_images) == (5, 5)
    assert 0 <= check.relative_difference < 1e-5
    assert check.logit_scale > 0.1
    assert check.miou_before == pytest.approx(check.miou_after, abs=1e-4)
    assert len(check.shapes) == 4
    content = json.loads((exports[kind].folder / INDEX).read_text())
    assert content["check"]["largest_difference"] == check.largest_difference
    assert content["iou"] == {CLASSES[0].name: 0.5, CLASSES[1].name: 0.25, CLASSES[2].name: None}
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert ("opset" in content["versions"]) == (kind == "onnx")
    assert content["size_bytes"] == (exports[kind].folder / FILES[kind]).stat().st_size


def change_onnx(path: Path) -> None:
    graph = onnx.load(path)
    weights = next(item for item in graph.graph.initializer if item.name.endswith("classifier.weight"))
    values = onnx.numpy_helper.to_array(weights).copy()
    values.flat[0] += 0.05
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(graph, path)


def change_torch_export(path: Path) -> None:
    program = torch.export.load(path)
    with torch.no_grad():
        program.state_dict["model.classifier.weight"].view(-1)[0] += 0.05
    torch.export.save(program, path)


def change_state_dict(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["classifier.weight"].view(-1)[0] += 0.05
    torch.save(state, path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "onnx": change_onnx,
    "torch_export": change_torch_export,
    "state_dict": change_state_dict,
}


@pytest.mark.parametrize("kind", FILES)
def test_one_changed_weight_does_not_pass(kind: str, exports: dict[str, Sample], tmp_path: Path) -> None:
    sample = exports[kind]
    for path in sample.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    CHANGES[kind](tmp_path / FILES[kind])
    run = open_model(tmp_path, sample.exported.description)
    with pytest.raises(ExportError, match="does not do as the trained model does: all 5 validation images"):
        check_images(run, sample.model, DATA.val, len(CLASSES), [])
    with pytest.raises(ExportError, match=r"on a batch of 1 x 64 x 96 .* its logits differ"):
        check_shapes(run, sample.model, sample.exported.description.input)
    with pytest.raises(ExportError, match="is not the file that was checked when it was exported"):
        read_description(tmp_path)


@pytest.mark.parametrize("kind", FILES)
def test_a_weight_that_changes_while_it_is_written_leaves_no_export(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_change(*arguments: object) -> InputShape:
        shape = write_model(*arguments)  # type: ignore[arg-type]
        CHANGES[kind](tmp_path / FILES[kind])
        return shape

    monkeypatch.setattr(exporting, "write_model", write_and_change)
    with pytest.raises(ExportError, match="does not do as the trained model does"):
        export_model(untrained(UNET, tmp_path / "trial"), DATA, tmp_path, kind)
    with pytest.raises(ExportError, match="is not an exported model"):
        export_folder(tmp_path)


def test_logits_that_are_not_numbers_do_not_pass(exports: dict[str, Sample]) -> None:
    sample = exports["state_dict"]

    def broken(images: np.ndarray) -> np.ndarray:
        logits = trained_logits(sample.model, torch.from_numpy(images)).numpy().copy()
        logits[-1, -1, -1, -1] = np.nan
        return logits

    with pytest.raises(ExportError, match="largest difference of logits inf"):
        check_images(broken, sample.model, DATA.val, len(CLASSES), [])


def test_of_many_validation_images_some_evenly_spaced_are_compared(exports: dict[str, Sample]) -> None:
    many = made_up_data(32, 32, images=401).val
    many.masks[1::2] = IGNORE_INDEX  # would leave nothing to count, were they compared
    sample = exports["state_dict"]
    seen = []

    def run(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return trained_logits(sample.model, torch.from_numpy(images)).numpy()

    result = check_images(run, sample.model, many, len(CLASSES), [])
    assert (result.images, result.val_images) == (200, 401)
    compared = np.concatenate(seen).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(compared[[0, -1]], many.images[[0, -1]])
    assert "200 of 401 validation images" in result.describe()


@pytest.mark.slow
@pytest.mark.parametrize("config", [PSPNET, DILATED])
def test_what_onnx_or_its_runtime_cannot_do_is_exported_in_another_way(config: TrialConfig, tmp_path: Path) -> None:
    exported = export_model(untrained(config, tmp_path), DATA, tmp_path, "onnx")
    assert exported.description.input == InputShape(
        height=HEIGHT, width=WIDTH, any_batch=True, any_size=True, multiple=1, min_side=32
    )


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (2, 2), (6, 5)])
@pytest.mark.parametrize("size", [(4, 3), (7, 13), (12, 10)])
def test_means_of_areas_are_those_of_torch(rows: int, columns: int, size: tuple[int, int]) -> None:
    features = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    expected = nn.AdaptiveAvgPool2d((rows, columns))(features)
    torch.testing.assert_close(AreaMeans(rows, columns)(features), expected)


def test_normalisation_inside_is_that_of_training() -> None:
    torch.testing.assert_close(
        ServedModel(nn.Identity())(noise(2, 3, 4, 5)), trained_logits(nn.Identity(), noise(2, 3, 4, 5))
    )


def test_a_size_between_the_steps_of_a_graph_is_exported_for_that_size_alone(tmp_path: Path) -> None:
    config = configuration(50, 70, size="small", base_channels=4)
    data = made_up_data(50, 70)
    exported = export_model(untrained(config, tmp_path / "trial"), data, tmp_path, "torch_export")
    shape = exported.description.input
    assert (shape.any_batch, shape.any_size) == (True, False)
    reason = "this architecture's graph can be free in size from 32 pixels a side in steps of 4"
    assert shape.reason == f"{reason}, and it was trained at 50 x 70"
    assert exported.notes[-1:] == [
        f"The model takes any number of images of 50 x 70 pixels (height x width) only: {shape.reason}."
    ]
    assert reason in (tmp_path / "README.md").read_text()


def test_what_cannot_be_free_is_fixed_and_said(tmp_path: Path) -> None:
    tried: list[InputShape] = []

    def verify(shape: InputShape) -> None:
        tried.append(shape)
        if shape.any_batch:
            raise ExportError("it is not free")

    shape = write_model(nn.Conv2d(3, 2, 1).eval(), "torch_export", tmp_path / "model.pt2", (HEIGHT, WIDTH), verify)
    assert (shape.any_batch, shape.any_size) == (False, False)
    assert shape.reason == "it is not free"
    assert [(item.any_batch, item.any_size) for item in tried] == [(True, True), (True, False), (False, False)]
    with pytest.raises(ExportError, match="The model cannot be exported as state_dict: no"):
        write_model(nn.Conv2d(3, 2, 1), "state_dict", tmp_path / "model.pt", (HEIGHT, WIDTH), refuse)


def refuse(_: InputShape) -> None:
    raise ExportError("no")


def test_a_model_for_one_image_predicts_a_batch_one_by_one() -> None:
    counts = []

    def run(images: np.ndarray) -> np.ndarray:
        counts.append(len(images))
        return images.astype(np.float32)

    images = noise(3, 3, 4, 4).numpy()
    np.testing.assert_array_equal(one_by_one(run)(images), images)
    assert counts == [1, 1, 1]


def test_promised_shapes_are_away_from_the_traced_one() -> None:
    model = build_model(configuration(48, 80, base_channels=4).model, 2)
    shapes = list(possible_shapes(model, "onnx", (48, 80)))
    assert [(shape.any_batch, shape.any_size) for shape in shapes] == [(True, True), (True, False), (False, False)]
    assert list(promised_shapes(shapes[0])) == [(1, 48, 80), (3, 48, 80), (1, 112, 48), (2, 32, 48)]
    assert list(promised_shapes(shapes[1])) == [(1, 48, 80), (3, 48, 80)]
    assert list(promised_shapes(shapes[2])) == [(1, 48, 80)]


@pytest.mark.parametrize("kind", FILES)
def test_the_code_on_the_card_predicts(kind: str, exports: dict[str, Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    sample = exports[kind]
    card = (sample.folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    image = DATA.val.images[0]
    cv2.imwrite(str(sample.folder / "image.jpg"), cv2.resize(image, None, fx=2, fy=2)[..., ::-1])
    seen = cv2.imread(str(sample.folder / "image.jpg"))
    assert seen is not None
    names: dict[str, object] = {}
    monkeypatch.chdir(sample.folder)
    exec(code[1], names)
    (sample.folder / "image.jpg").unlink()
    pixels = cv2.resize(seen[..., ::-1], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    expected = trained_logits(sample.model, torch.from_numpy(pixels.copy())[None]).argmax(1).numpy()
    assert (np.asarray(names["classes"]) != expected).mean() < 1e-3


def test_the_card_tells_what_a_person_must_know(exports: dict[str, Sample]) -> None:
    card = (exports["onnx"].folder / "README.md").read_text()
    for said in (
        "# unet, trial t0003",
        "Its weakest class is Straße, 草地 with IoU 0.250.",
        "**Note:** Nobody &lt;b&gt;checked&lt;/b&gt; it.",
        "| 0 | &lt;b&gt;dark&lt;/b&gt; \\| $x$ | #0a141e | 0.500 |",
        "| 2 | ${oc.env:HOME} {width} | #ffffff | – |",
        "| mIoU | 0.500 |",
        "Latency: 1.50 ms (median; 95th percentile 2.00 ms) for 1 image of 64 x 96 in fp32 on A &lt;processor&gt;",
        "Normalisation (mean [0.485, 0.456, 0.406] and deviation [0.229, 0.224, 0.225] of RGB in [0, 1]) is inside",
        "any number of images of any size from 32 x 32 pixels whose height and width 4 divides",
        "python -m trainers.train config.yaml",
        "python -m search.predict model=THIS_FOLDER",
        "- 2 pairs left out: &lt;a&gt;.png",
        f"SHA-256 of the file: `{exports['onnx'].exported.description.sha256}`",
    ):
        assert said in card
    assert "is **not** inside" in (exports["state_dict"].folder / "README.md").read_text()
    assert "can run code" in (exports["torch_export"].folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "has version 9; this segmentation-search reads 1"),
        ({"format": "caffe"}, "format must be one of onnx, torch_export, state_dict; got 'caffe'"),
        ({"format": "torch_export"}, "model.pt2 is missing"),
        ({"classes": [{"name": "a", "color": [0, 0, 256]}]}, "color must be red, green and blue from 0 to 255"),
        ({"classes": [{"color": [0, 0, 0]}]}, "'name' is missing"),
        ({"classes": []}, "classes must be 1 to 255; got 0"),
        ({"classes": ["a"]}, "an object with 'name' is expected; got 'a'"),
        ({"input": {"height": 0}}, "'width' is missing"),
        ({"input": {"height": True}}, "'height' must be of type int; got True"),
        ({"sha256": 3}, "'sha256' must be of type str; got 3"),
        ({"sha256": "0" * 64}, "is not the file that was checked when it was exported"),
    ],
)
def test_a_description_that_is_none_is_named(
    change: dict[str, object], message: str, exports: dict[str, Sample], tmp_path: Path
) -> None:
    folder = exports["state_dict"].folder
    content = json.loads((folder / INDEX).read_text())
    (tmp_path / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    (tmp_path / INDEX).write_text(json.dumps(content | change))
    with pytest.raises(ExportError, match=re.escape(message)):
        read_description(tmp_path)


def test_weights_that_hold_code_are_refused(exports: dict[str, Sample], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.write_text, (tmp_path / "ran", "code")

    torch.save({"classifier.weight": Trap()}, tmp_path / "model.pt")
    with pytest.raises(ExportError, match=r"model\.pt cannot be opened"):
        open_model(tmp_path, exports["state_dict"].exported.description)
    assert not (tmp_path / "ran").exists()


def test_a_gpu_that_is_not_there_is_said(exports: dict[str, Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for kind, message in (("onnx", "needs onnxruntime-gpu"), ("state_dict", "torch sees no GPU here")):
        with pytest.raises(ExportError, match=message):
            open_model(exports[kind].folder, exports[kind].exported.description, "cuda")


def test_what_the_search_recorded_and_is_not_reached_is_noted(tmp_path: Path) -> None:
    def notes(miou: float) -> list[str]:
        folder = tmp_path / f"{miou}"
        folder.mkdir()
        trained = untrained(UNET, tmp_path / "trial", metrics={"miou": miou})
        return list(export_model(trained, DATA, folder, "state_dict").notes)

    said = notes(0.9)
    assert said[0].startswith("The search recorded mIoU 0.900; the trained model reaches 0.")
    reached = json.loads((tmp_path / "0.9" / INDEX).read_text())["check"]["miou_before"]
    assert notes(reached + 0.004) == []


@pytest.mark.parametrize("kind", FILES)
def test_a_file_names_no_path_of_the_machine(kind: str, exports: dict[str, Sample]) -> None:
    path = exports[kind].folder / FILES[kind]
    content = path.read_bytes()
    if kind != "onnx":
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(served.__file__).parents[2]).encode() not in content
    assert b".py" not in content
