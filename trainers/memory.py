"""What a GPU must hold while a trial trains on it: measured before the search, so that small trials share one."""

from __future__ import annotations

import gc

import torch
import torch.nn.functional as F

from trainers.config import TrialConfig
from trainers.loop import compute_logits, place_model, training_shape
from trainers.profiling import fresh_model

CONTEXT_MB = 600.0
"""Of a process on a GPU beyond what torch allocates: the CUDA context, with the kernels of cuDNN and cuBLAS."""
_STEPS = 2
"""The state of the optimizer is there from the second step on."""


def training_memory_mb(trial: TrialConfig, num_classes: int, precision: str, device: torch.device) -> float | None:
    """Memory in 10^6 bytes of a process that trains and validates the trial on a GPU; None where that is too small.

    The highest of two training steps with Adam, which has the most state of the optimizers, and of one batch of
    whole validation images, as torch reserves it, and the context. The data stays in the memory of the machine.

    Args:
        trial: its architecture, batch size and image sizes count.
        num_classes: classes of the logits.
        precision: ``fp32`` or ``bf16``.
        device: a GPU that nothing else uses.
    """
    _clear(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        _train_and_validate(trial, num_classes, precision, device)
        return torch.cuda.max_memory_reserved(device) / 1e6 + CONTEXT_MB
    except torch.OutOfMemoryError:
        return None
    finally:
        _clear(device)


def device_memory_mb(device: torch.device) -> float:
    """All memory of a GPU, in 10^6 bytes."""
    return float(torch.cuda.get_device_properties(device).total_memory / 1e6)


def _train_and_validate(trial: TrialConfig, num_classes: int, precision: str, device: torch.device) -> None:
    batch, height, width = training_shape(trial)
    model = place_model(fresh_model(trial.model, num_classes), device, precision).train()
    optimizer = torch.optim.Adam(model.parameters())
    pixels = torch.zeros(batch, 3, height, width, dtype=torch.uint8)
    target = torch.zeros(batch, height, width, dtype=torch.int64, device=device)
    for _ in range(_STEPS):
        loss = F.cross_entropy(compute_logits(model, pixels, device, precision), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    whole = torch.zeros(batch, 3, trial.data.height, trial.data.width, dtype=torch.uint8)
    with torch.inference_mode():
        compute_logits(model.eval(), whole, device, precision).argmax(1)


def _clear(device: torch.device) -> None:
    gc.collect()
    with torch.cuda.device(device):
        torch.cuda.empty_cache()
