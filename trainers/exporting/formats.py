"""Writing a network to a file, with as many of its dimensions free as can be shown to work."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from trainers.exporting.description import ExportError, InputShape
from trainers.exporting.served import MIN_SIDE, exportable, side_rule

INPUT, OUTPUT = "images", "logits"
"""Names in the ONNX graph."""
BATCH_AXIS, HEIGHT_AXIS, WIDTH_AXIS = 0, 2, 3
_AXES = {BATCH_AXIS: "batch", HEIGHT_AXIS: "height", WIDTH_AXIS: "width"}
_TALKATIVE = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir", "torch.utils._sympy")
_LONGEST_REASON = 200


def write_model(
    model: nn.Module, kind: str, path: Path, size: tuple[int, int], verify: Callable[[InputShape], None]
) -> InputShape:
    """Write ``model`` and return which batches the file takes: what is free, ``verify`` has found to work.

    Args:
        model: maps normalised images (n, 3, h, w) to logits; on the CPU, with its trained weights.
        kind: a key of :data:`~trainers.exporting.description.FILES`.
        path: the file to write.
        size: height and width of the images trained on, in pixels.
        verify: called after each attempt; raises when the file does not do what is said of it.

    Raises:
        ExportError: not even with all dimensions fixed did a file come about that does as the model does.
    """
    failures: list[str] = []
    for shape in possible_shapes(model, kind, size):
        try:
            with quiet():
                WRITERS[kind](model, shape, path)
            verify(shape)
        except OSError:
            raise  # a disk that refuses is no reason to ask for less
        except Exception as error:  # the exporters raise whatever their parts raise
            failures.append(first_line(error))
            continue
        return replace(shape, reason=shape.reason or "; ".join(dict.fromkeys(failures)) or None)
    raise ExportError(f"The model cannot be exported as {kind}: {failures[-1]}")


def possible_shapes(model: nn.Module, kind: str, size: tuple[int, int]) -> Iterator[InputShape]:
    """What to attempt, the most general first."""
    fixed = InputShape(height=size[0], width=size[1], any_batch=False, any_size=False)
    if kind == "state_dict":  # no graph: the network itself takes any size, and pads it
        yield replace(fixed, any_batch=True, any_size=True, min_side=min(MIN_SIDE, *size))
        return
    multiple, min_side = side_rule(model)
    if all(side % multiple == 0 and side >= min_side for side in size):
        yield replace(fixed, any_batch=True, any_size=True, multiple=multiple, min_side=min_side)
    else:
        steps = f" in steps of {multiple}" if multiple > 1 else ""
        rule = f"this architecture's graph can be free in size from {min_side} pixels a side{steps}"
        fixed = replace(fixed, reason=f"{rule}, and it was trained at {size[0]} x {size[1]}")
    yield replace(fixed, any_batch=True)
    yield fixed


def export_program(model: nn.Module, shape: InputShape) -> ExportedProgram:
    """The graph of the served model: uint8 images (n, 3, h, w) to float32 logits."""
    # A batch of one would be a constant to torch.export.
    images = torch.zeros(2 if shape.any_batch else 1, 3, shape.height, shape.width, dtype=torch.uint8)
    program = torch.export.export(exportable(model), (images,), dynamic_shapes={INPUT: _free_dimensions(shape)})
    for node in program.graph.nodes:  # the paths of this machine's files are nobody's business
        node.meta.pop("stack_trace", None)
    return program


def _free_dimensions(shape: InputShape) -> dict[int, Any]:
    dimensions: dict[int, Any] = {BATCH_AXIS: Dim("batch", min=1)} if shape.any_batch else {}
    for axis in (HEIGHT_AXIS, WIDTH_AXIS) if shape.any_size else ():
        if shape.multiple == 1:
            dimensions[axis] = Dim(_AXES[axis], min=shape.min_side)
        else:
            dimensions[axis] = shape.multiple * Dim(f"{_AXES[axis]}_steps", min=shape.min_side // shape.multiple)
    return dimensions


def write_onnx(model: nn.Module, shape: InputShape, path: Path) -> None:
    """One file, weights included; the free axes are called batch, height and width in it."""
    program = export_program(model, shape)
    names = {axis: _AXES[axis] for axis in _free_dimensions(shape)}
    converted = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: names} if names else None,
    )
    assert converted is not None
    converted.save(path, external_data=False)


def write_torch_export(model: nn.Module, shape: InputShape, path: Path) -> None:
    """An archive of torch.export."""
    torch.export.save(export_program(model, shape), path)


def write_state_dict(model: nn.Module, shape: InputShape, path: Path) -> None:  # noqa: ARG001 - as its siblings
    """The network's weights alone: names with tensors."""
    torch.save(model.state_dict(), path)


WRITERS: Mapping[str, Callable[[nn.Module, InputShape, Path], None]] = {
    "onnx": write_onnx,
    "torch_export": write_torch_export,
    "state_dict": write_state_dict,
}
"""Writer of each format."""


def first_line(error: Exception) -> str:
    """What an error says, short enough for one line."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return (text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ...").rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporters tell their developers out of the user's terminal."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
