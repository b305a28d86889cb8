"""What a GPU must hold while a trial trains."""

from __future__ import annotations

import pytest
import torch

from trainers import memory
from trainers.config import TrialConfig
from trainers.loop import compute_logits
from trainers.memory import CONTEXT_MB, device_memory_mb, training_memory_mb

TRIAL = TrialConfig().replace(
    {"model.architecture": "unet", "model.base_channels": 4, "data.height": 32, "data.width": 32, "data.crop": 16}
)


class Cuda:
    """Stands in for ``torch.cuda``: what is asked of it, on a machine without a GPU."""

    reserved_bytes = 0.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cleared = 0
        monkeypatch.setattr(memory, "_clear", self._clear)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: self.reserved_bytes)

    def _clear(self, device: torch.device) -> None:  # noqa: ARG002
        self.cleared += 1


def test_training_and_validation_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps themselves run on any device."""
    cuda, shapes = Cuda(monkeypatch), []

    def watched(model: torch.nn.Module, pixels: torch.Tensor, device: torch.device, precision: str) -> torch.Tensor:
        shapes.append((model.training, tuple(pixels.shape)))
        cuda.reserved_bytes += 1e8
        return compute_logits(model, pixels, device, precision)

    monkeypatch.setattr(memory, "compute_logits", watched)
    found = training_memory_mb(TRIAL, 3, "fp32", torch.device("cpu"))
    batch = TRIAL.training.batch_size
    assert shapes == [(True, (batch, 3, 16, 16))] * 2 + [(False, (batch, 3, 32, 32))]
    assert found == 300 + CONTEXT_MB
    assert cuda.cleared == 2


def test_a_gpu_that_is_too_small_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(memory, "_train_and_validate", fail)
    assert training_memory_mb(TRIAL, 3, "fp32", torch.device("cpu")) is None
    assert cuda.cleared == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_larger_batch_needs_more_of_the_gpu() -> None:
    device = torch.device("cuda")
    large = TRIAL.replace({"data.height": 512, "data.width": 512, "data.crop": None, "training.batch_size": 32})
    small = training_memory_mb(TRIAL, 3, "fp32", device)
    more = training_memory_mb(large, 3, "fp32", device)
    assert small is not None
    assert more is not None
    assert CONTEXT_MB < small < more < device_memory_mb(device)
    assert torch.cuda.memory_reserved(device) < 1e8
