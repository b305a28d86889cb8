"""The model card: what a person must know of an exported model, as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from trainers.exporting.description import CONFIG, InputShape

Content = Mapping[str, Any]
"""What ``model.json`` holds."""
NOTHING = "–"
_SPECIAL = re.compile(r"([\\`*_\[\]|~])")
_METRICS = {
    "miou": "mIoU",
    "miou_foreground": "mIoU without the first class",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean class accuracy",
}
_KINDS = {
    "onnx": "an ONNX graph",
    "torch_export": "a graph of torch.export",
    "state_dict": "the weights of the network as a state dict of PyTorch",
}
_PREPARE = """\
pixels = cv2.resize(cv2.imread("image.jpg")[..., ::-1], ({width}, {height}), interpolation=cv2.INTER_AREA)
images = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]  # RGB, uint8 (1, 3, height, width)
"""
_CODE = {
    "onnx": f"""\
import cv2, numpy as np, onnxruntime

session = onnxruntime.InferenceSession("{{file}}", providers=["CPUExecutionProvider"])
{_PREPARE}\
classes = session.run(None, {{{{"images": images}}}})[0].argmax(1)
""",
    "torch_export": f"""\
import cv2, numpy as np, torch

model = torch.export.load("{{file}}").module()
{_PREPARE}\
classes = model(torch.from_numpy(images)).argmax(1)
""",
    "state_dict": f"""\
import cv2, numpy as np, torch
from pathlib import Path
from trainers.config import TrialConfig
from trainers.exporting.served import ServedModel
from trainers.models import build_model

network = build_model(TrialConfig.load(Path("{CONFIG}"), {{{{"model": {{{{"weights": "none"}}}}}}}}).model, {{classes}})
network.load_state_dict(torch.load("{{file}}", weights_only=True))
model = ServedModel(network).eval()  # normalises, then runs the network
{_PREPARE}\
classes = model(torch.from_numpy(images)).argmax(1)
""",
}
_TRUST = {
    "onnx": "",
    "torch_export": (
        "Open a torch.export archive only if you trust its maker: unlike an ONNX file or a state dict, reading one "
        "can run code that was put into it."
    ),
    "state_dict": "",
}


def card(content: Content) -> str:
    """The Markdown text of ``README.md``."""
    sections = (_head, _use, _classes, _metrics, _cost, _check, _origin)
    return "\n\n".join(section(content) for section in sections) + "\n"


def plain(text: object) -> str:
    """A name as text on one line, whatever it holds: neither Markdown nor HTML."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def weakest_class(iou: Mapping[str, float | None]) -> tuple[str, float] | None:
    """The class of lowest IoU among those that have one."""
    known = [(name, value) for name, value in iou.items() if value is not None]
    return min(known, key=lambda item: item[1], default=None)


def _head(content: Content) -> str:
    data, size, weakest = content["data"], content["input"], weakest_class(content["iou"])
    weak = f" Its weakest class is {plain(weakest[0])} with IoU {weakest[1]:.3f}." if weakest else ""
    paragraphs = [
        f"# {plain(content['config']['model']['architecture'])}, trial {plain(content['trial'])}",
        f"Segments RGB images into {len(content['classes'])} classes. It was trained on {data['num_train']} images of "
        f"the data set {plain(data['name'])} at {size['height']} x {size['width']} pixels (height x width) and reached "
        f"mIoU {_decimal(content['metrics'].get('miou'))} on {data['num_val']} validation images.{weak}",
        *(f"**Note:** {plain(note)}" for note in content["notes"]),
    ]
    return "\n\n".join(paragraphs)


def _use(content: Content) -> str:
    kind, file, size = content["format"], content["file"], content["input"]
    code = _CODE[kind].format(file=file, classes=len(content["classes"]), height=size["height"], width=size["width"])
    paragraphs = [
        "## How to use it",
        f"`{file}` is {_KINDS[kind]}. {_interface(content)}",
        _TRUST[kind],
        "Masks and overlays of all images in a folder, with segmentation-search installed:",
        "```bash\npython -m search.predict model=THIS_FOLDER images=FOLDER_OF_IMAGES\n```",
        "In a program:",
        f"```python\n{code}```",
    ]
    return "\n\n".join(filter(None, paragraphs))


def _interface(content: Content) -> str:
    given = content["input"]
    shape = InputShape(**{field.name: given[field.name] for field in fields(InputShape)})
    normalisation = given["normalisation"]
    numbers = f"mean {normalisation['mean']} and deviation {normalisation['std']} of RGB in [0, 1]"
    if normalisation["inside"]:
        images = "uint8 RGB images (n, 3, height, width) with values from 0 to 255"
        how = f"Normalisation ({numbers}) is inside the graph: do not normalise before."
    else:
        images = "normalised float32 RGB images (n, 3, height, width)"
        how = f"Normalisation ({numbers}) is **not** inside; `ServedModel` below adds it, and takes uint8."
    return (
        f"It maps {images} to float32 logits (n, {len(content['classes'])}, height, width); the class of a pixel is "
        f"that of its largest logit. {how} It takes {shape.describe()}. Trained on images resized to "
        f"{given['height']} x {given['width']} by area averaging, it is most accurate at that size."
    )


def _classes(content: Content) -> str:
    rows = [
        (str(index), plain(item["name"]), "#{:02x}{:02x}{:02x}".format(*item["color"]), _decimal(iou))
        for index, (item, iou) in enumerate(zip(content["classes"], content["iou"].values(), strict=True))
    ]
    table = _table(("index", "class", "colour", "IoU"), rows)
    ignored = "#{:02x}{:02x}{:02x}".format(*content["ignored_color"])
    return f"## Classes\n\n{table}\n\nMask values that are no class are shown in {ignored}."


def _metrics(content: Content) -> str:
    rows = [(label, _decimal(content["metrics"].get(name))) for name, label in _METRICS.items()]
    table = _table(("metric", "value"), rows)
    return f"## Metrics\n\nOver the whole validation set, as the search recorded them.\n\n{table}"


def _cost(content: Content) -> str:
    costs = content["costs"]
    facts = [
        f"Weights: {_decimal(costs.get('size_mb'), 2)} MB, {_whole(costs.get('params'))} parameters. "
        f"`{content['file']}`: {content['size_bytes'] / 1e6:.2f} MB. "
        f"Multiply-accumulate operations of one image: {_whole(costs.get('macs'))}."
    ]
    for entry in content["latency"]:
        facts.append(
            f"Latency: {_decimal(entry['latency_ms'], 2)} ms (median; 95th percentile "
            f"{_decimal(entry['latency_p95_ms'], 2)} ms) for {_images(entry['batch'])} of {entry['height']} x "
            f"{entry['width']} in {entry['precision']} on {plain(entry['device_name'])}, measured in PyTorch "
            f"{plain(entry['torch_version'])} before the export."
        )
    if not content["latency"]:
        facts.append("Latency: not measured.")
    return "## Size and speed\n\n" + "\n\n".join(facts)


def _check(content: Content) -> str:
    check = content["check"]
    relative = check["largest_difference"] / (check["logit_scale"] or 1)
    shapes = ", ".join(" x ".join(map(str, shape)) for shape in check["shapes"])
    return (
        "## Check\n\n"
        f"`{content['file']}` was compared with the trained model on {check['images']} of {check['val_images']} "
        f"validation images, both in float32 on a CPU: largest difference of two logits "
        f"{check['largest_difference']:.1e} ({relative:.1e} of the largest logit, limit "
        f"{check['max_relative_difference']:.0e}), {check['pixels_changed']:.4%} of the pixels in another class, mIoU "
        f"{check['miou_before']:.4f} before and {check['miou_after']:.4f} after. The logits were also compared on "
        f"batches of other shapes (images x height x width): {shapes}. SHA-256 of the file: `{content['sha256']}`."
    )


def _origin(content: Content) -> str:
    versions = ", ".join(f"{name} {plain(value)}" for name, value in content["versions"].items())
    notes = "".join(f"\n- {plain(note)}" for note in content["data"]["notes"])
    return (
        "## Origin\n\n"
        f"Trial {plain(content['trial'])} of the run {plain(content['run'])}. Trained in "
        f"{content['precision']['trained']}, exported in {content['precision']['exported']}, with {versions}.\n\n"
        f"Data set {plain(content['data']['name'])}, {content['data']['num_train']} training and "
        f"{content['data']['num_val']} validation images{':' if notes else '.'}{notes}\n\n"
        f"All settings of the trial are in `{CONFIG}`. To train it again:\n\n"
        f"```bash\npython -m trainers.train {CONFIG}\n```"
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _decimal(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"
