"""Running an exported model; torch is imported only for the formats that need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.exporting.description import ExportError, ModelDescription

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Run = Callable[[Pixels], Floats]
"""RGB images (n, 3, h, w) to logits (n, classes, h, w)."""
DEVICES = ("cpu", "cuda")


def open_model(folder: Path, description: ModelDescription, device: str = "cpu") -> Run:
    """The exported model in ``folder``, ready to run.

    Weights alone (``state_dict``) are read as tensors and nothing else, and ONNX files hold no code of Python's. An
    archive of torch.export is no such thing: reading one can run what its maker put into it. The SHA-256 in
    ``model.json`` tells a changed file, not a malicious maker.

    Raises:
        ExportError: the file cannot be read here, or the device is not there.
    """
    run = open_file(folder / description.file, description, device)
    return run if description.input.any_batch else one_by_one(run)


def open_file(path: Path, description: ModelDescription, device: str) -> Run:
    """As :func:`open_model`, for batches of the size that the file itself takes."""
    try:
        return _OPENERS[description.format](path, description, device)
    except ExportError:
        raise
    except ImportError as error:
        raise ExportError(f"{path} cannot be run: {error.name} is not installed.") from error
    except Exception as error:  # what the runtimes raise at a file of another version is not documented
        raise ExportError(
            f"{path} cannot be opened: {error} It was exported with torch {description.torch_version}."
        ) from error


def one_by_one(run: Run) -> Run:
    """A model that takes one image at a time, for batches."""
    return lambda images: np.concatenate([run(images[index : index + 1]) for index in range(len(images))])


def _open_onnx(path: Path, description: ModelDescription, device: str) -> Run:  # noqa: ARG001 - as its siblings
    import onnxruntime  # noqa: PLC0415

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        raise ExportError(f"device={device} needs onnxruntime-gpu; the onnxruntime here runs on the CPU only.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors reach us as exceptions
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _open_torch_export(path: Path, description: ModelDescription, device: str) -> Run:  # noqa: ARG001
    import torch  # noqa: PLC0415
    from torch.export.passes import move_to_device_pass  # noqa: PLC0415

    _require_gpu(device)
    program = torch.export.load(path)
    return _torch_run((program if device == "cpu" else move_to_device_pass(program, device)).module(), device)


def _open_state_dict(path: Path, description: ModelDescription, device: str) -> Run:
    import torch  # noqa: PLC0415

    from trainers.config import TrialConfig  # noqa: PLC0415
    from trainers.exporting.served import ServedModel  # noqa: PLC0415
    from trainers.profiling import fresh_model  # noqa: PLC0415

    _require_gpu(device)
    model = fresh_model(TrialConfig.from_dict(description.config).model, len(description.classes))
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return _torch_run(ServedModel(model).eval().to(device), device)


def _torch_run(model: Any, device: str) -> Run:
    import torch  # noqa: PLC0415

    def run(images: Pixels) -> Floats:
        with torch.inference_mode():
            logits: Floats = model(torch.from_numpy(images).to(device)).cpu().numpy()
        return logits

    return run


def _require_gpu(device: str) -> None:
    import torch  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise ExportError("device=cuda, but torch sees no GPU here. Use device=cpu, or check drivers.")


_OPENERS: Mapping[str, Callable[[Path, ModelDescription, str], Run]] = {
    "onnx": _open_onnx,
    "torch_export": _open_torch_export,
    "state_dict": _open_state_dict,
}
