"""What an architecture costs before it is trained: parameters, size, MACs, latency, and its faster precision."""

from __future__ import annotations

import copy
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import ModelConfig
from trainers.models import build_model
from trainers.settings import TrialError

MIN_RUNS = 20
"""Fewest timed runs behind a latency, time permitting."""
MIN_TIME_S = 0.5
"""Shortest total time of those runs."""
BUSY = 0.25
"""Share of the cores at work for others from which a latency is in doubt."""
WINDOW = 5
"""Runs of one warm-up window."""
STABLE = 0.03
"""Warm-up ends when the medians of two consecutive windows differ by less than this share."""
TURNS = 5
"""Training steps timed in each precision, time permitting."""
CLEAR = 1.25
"""The second step of each precision, its first warm one, decides where they are this many times further apart."""
BF16_GAIN = 1.1
"""fp32 is the more exact: bf16 has to be this many times faster to be preferred, which also outweighs noise."""


MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class ProfilingError(TrialError):
    """An architecture that cannot be measured as asked."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is served when its latency is measured."""

    batch: int = 1
    """Images a forward pass."""
    precision: str = "fp32"
    """``fp32`` or ``bf16`` (autocast)."""
    memory_format: str = "auto"
    """``contiguous``, ``channels_last``, or ``auto``: channels last with bf16, contiguous with fp32."""
    compiled: bool = False
    """Whether by ``torch.compile``."""

    def layout(self) -> str:
        """The memory format, one of :data:`MEMORY_FORMATS`."""
        return usual_layout(self.precision) if self.memory_format == "auto" else self.memory_format


@dataclass(frozen=True)
class ArchitectureProfile:
    """What an architecture costs, and under which conditions that was measured."""

    params: int
    """Trainable parameters."""
    size_mb: float
    """Weights as served, that is parameters and buffers without optimizer state, in fp32, in 10^6 bytes."""
    macs: int
    """Multiply-accumulate operations of one image's forward pass."""
    latency_ms: float
    """Median time of one forward pass over ``batch`` images."""
    latency_p95_ms: float
    """95th percentile of the same times."""
    latency_spread: float
    """Interquartile range of the same times over their median."""
    device: str
    """``cpu`` or ``cuda``."""
    device_name: str
    """The processor, see :func:`device_name`."""
    batch: int
    """Images a forward pass."""
    height: int
    """Of the images, in pixels."""
    width: int
    """Of the images, in pixels."""
    precision: str
    """Of the forward pass that was timed: ``fp32`` or ``bf16``."""
    memory_format: str
    """Of weights and images: ``contiguous`` or ``channels_last``."""
    compiled: bool
    """Whether ``torch.compile`` made the forward pass."""
    torch_version: str
    """As torch gives it."""
    train_precision: str | None
    """The faster precision of a training step: ``fp32`` or ``bf16``; None where none was looked for."""
    others_busy: float | None = None
    """Share of the machine's cores that were at work right before, when this process was not; None: not looked at."""
    train_memory_mb: float | None = None
    """Memory on the GPU of a process that trains the architecture, in 10^6 bytes (:mod:`trainers.memory`); None on a
    CPU, where none was measured, and where the GPU is too small."""
    train_batch: int | None = None
    """Images of the training step whose memory was measured."""
    device_memory_mb: float | None = None
    """All memory of the GPU, in 10^6 bytes."""

    @property
    def disturbed(self) -> bool:
        """Whether other processes had a part of the machine that makes the latency doubtful."""
        return self.others_busy is not None and self.others_busy > BUSY


@torch.random.fork_rng()
def profile_architecture(
    config: ModelConfig,
    num_classes: int,
    height: int,
    width: int,
    device: torch.device | str,
    *,
    serving: Serving,
    train_batch: tuple[int, int, int] | None = None,
    train_threads: int | None = None,
    budget_s: float = 2.0,
) -> ArchitectureProfile:
    """Count and time one architecture; nothing else should run on the device meanwhile.

    Torch's random state is left as it was.

    Args:
        config: the architecture; its initial weights do not matter and are not read.
        num_classes: classes of the logits.
        height: of the images served, in pixels.
        width: of the images served, in pixels.
        device: where it is served and trained.
        serving: how it is served.
        train_batch: images, height and width of a training step, whose faster precision is looked for; None: it is not.
        train_threads: CPU threads of that step; None: as many as torch has now, which the latency is measured with.
        budget_s: seconds after which the latency is taken from the runs made so far, and again those after which
            the comparison of precisions ends; single runs are not interrupted, and compilation does not count.

    Raises:
        ProfilingError: ``torch.compile`` fails here.
    """
    device = torch.device(device)
    params, size_mb, macs = count_architecture(config, num_classes, height, width)
    model = fresh_model(config, num_classes).to(device)
    busy = others_busy()
    times_ms = measure_latency(model, height, width, serving, budget_s)
    with cpu_threads(train_threads or torch.get_num_threads()):
        train_precision = faster_precision(model, train_batch, budget_s) if train_batch else None
    return ArchitectureProfile(
        params=params,
        size_mb=size_mb,
        macs=macs,
        **_latency(times_ms),
        **_conditions(height, width, device, serving),
        train_precision=train_precision,
        others_busy=busy,
    )


def _latency(times_ms: NDArray[np.float64]) -> dict[str, Any]:
    lower, median, upper, p95 = (float(value) for value in np.percentile(times_ms, (25, 50, 75, 95)))
    return {"latency_ms": median, "latency_p95_ms": p95, "latency_spread": (upper - lower) / median}


def _conditions(height: int, width: int, device: torch.device, serving: Serving) -> dict[str, Any]:
    return {
        "device": device.type,
        "device_name": device_name(device),
        "batch": serving.batch,
        "height": height,
        "width": width,
        "precision": serving.precision,
        "memory_format": serving.layout(),
        "compiled": serving.compiled,
        "torch_version": str(torch.__version__),
    }


def others_busy(patience_s: float = 1.0) -> float:
    """Share of the machine's cores that are at work while this process sleeps; waits a little for them to rest.

    Where every step of a forward pass waits for a thread that has lost its core, latency is many times too high, and
    evenly so: the spread of the times does not show it.
    """
    deadline = time.perf_counter() + patience_s
    while True:
        share = float(psutil.cpu_percent(interval=0.2)) / 100
        if share <= BUSY or time.perf_counter() > deadline:
            return share


def fresh_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """The architecture without trained weights, which cost nothing to run and may cost a download to get."""
    return build_model(dataclasses.replace(config, weights="none"), num_classes)


def count_architecture(config: ModelConfig, num_classes: int, height: int, width: int) -> tuple[int, float, int]:
    """Trainable parameters, size_mb and MACs at batch 1, without allocating a weight.

    One MAC is two of the floating-point operations that torch counts (convolutions and matrix products).
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - brings triton, which no trial needs.

    with torch.device("meta"):
        model = fresh_model(config, num_classes).eval()
        images = torch.empty(1, 3, height, width)
    params = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size_mb = sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e6
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(images)
    return params, size_mb, counter.get_total_flops() // 2


def measure_latency(
    model: nn.Module, height: int, width: int, serving: Serving, budget_s: float
) -> NDArray[np.float64]:
    """Times in ms of forward passes over images (batch, 3, height, width) on the model's device, after a warm-up.

    The warm-up lasts until the times are stable, for at most half of ``budget_s``; then :data:`MIN_RUNS` runs
    are timed, and more up to :data:`MIN_TIME_S`, but only one in any case once ``budget_s`` is over. A model that
    is compiled runs once before all that: the compilation is no part of any time.

    Raises:
        ProfilingError: ``torch.compile`` fails here.
    """
    device = next(model.parameters()).device
    layout = MEMORY_FORMATS[serving.layout()]
    model = model.eval().to(memory_format=layout)
    images = torch.randn(serving.batch, 3, height, width, device=device).contiguous(memory_format=layout)
    served = compiled(model) if serving.compiled else model

    def forward() -> None:
        with torch.inference_mode(), autocast(device, serving.precision):
            served(images)

    if serving.compiled:
        compile_now(forward)
    start = time.perf_counter()
    warm_up(forward, device, start + budget_s / 2)
    times_ms = [time_once(forward, device)]
    while time.perf_counter() < start + budget_s and (len(times_ms) < MIN_RUNS or sum(times_ms) < 1e3 * MIN_TIME_S):
        times_ms.append(time_once(forward, device))
    return np.array(times_ms)


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """``model`` as ``torch.compile`` makes it for one shape, at its first call."""
    # Compiled code is kept by source code, eight variants at most: a ninth of one family would silently run uncompiled.
    torch.compiler.reset()
    return torch.compile(model, dynamic=False)


def compile_now(forward: Callable[[], None]) -> None:
    """Make the first call, which compiles.

    Raises:
        ProfilingError: there is no C++ compiler, or whatever else keeps ``torch.compile`` from its work.
    """
    try:
        forward()
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)  # of a backend, among them the compiler
        reason = (str(cause).splitlines() or [type(cause).__name__])[0].removesuffix(".")
        raise ProfilingError(f"torch.compile fails here: {reason}.") from error


def warm_up(run: Callable[[], None], device: torch.device, deadline: float) -> None:
    """Run until the medians of two consecutive windows agree, or until ``deadline`` (of ``time.perf_counter``)."""
    previous = float("inf")
    window: list[float] = []
    while time.perf_counter() < deadline:
        window.append(time_once(run, device))
        if len(window) < WINDOW:
            continue
        median = float(np.median(window))
        if abs(median - previous) < STABLE * median:
            return
        previous, window = median, []


def time_once(run: Callable[[], None], device: torch.device) -> float:
    """Time of one run in ms; on a GPU by its own clock, from launch to completion."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end))


def faster_precision(model: nn.Module, train_batch: tuple[int, int, int], budget_s: float = 2.0) -> str:
    """The precision, ``fp32`` or ``bf16``, in which a training step of ``model`` on its device is faster.

    On a GPU it is bf16 wherever the GPU has it. On a CPU single steps (forward and backward) of fp32 in contiguous
    layout and of bf16 autocast with channels last take turns, and the best of each are compared: a cold start and
    other work on the machine only ever add time.

    Args:
        model: left as it is.
        train_batch: images (at least 2), height and width of a step.
        budget_s: seconds after which no further turn begins.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    images, height, width = train_batch
    batch = torch.randn(images, 3, height, width)
    steps = {precision: training_step(model, batch, precision) for precision in ("fp32", "bf16")}
    best = dict.fromkeys(steps, float("inf"))
    start = time.perf_counter()
    for turn in range(TURNS):
        best = {precision: min(best[precision], time_once(step, device)) for precision, step in steps.items()}
        gain = best["fp32"] / (BF16_GAIN * best["bf16"])
        if time.perf_counter() > start + budget_s or (turn > 0 and not 1 / CLEAR < gain < CLEAR):
            break
    return "bf16" if gain > 1 else "fp32"


def training_step(model: nn.Module, batch: Tensor, precision: str) -> Callable[[], None]:
    """One forward and backward pass of a copy of ``model`` over ``batch`` (n, 3, h, w)."""
    layout = MEMORY_FORMATS[usual_layout(precision)]
    model = copy.deepcopy(model).train().to(memory_format=layout)
    batch = batch.contiguous(memory_format=layout)
    target = torch.zeros(len(batch), *batch.shape[2:], dtype=torch.int64, device=batch.device)

    def step() -> None:
        model.zero_grad()
        with autocast(batch.device, precision):
            logits = model(batch)
        F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]

    return step


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` CPU threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which a forward pass has ``precision``."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def usual_layout(precision: str) -> str:
    """The memory format of images and weights that goes with ``precision``, one of :data:`MEMORY_FORMATS`."""
    return "channels_last" if precision == "bf16" else "contiguous"


def device_name(device: torch.device | str) -> str:
    """The processor that latencies hold for; of a CPU with the number of threads, which they depend on as much."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_model()} ({threads} thread{'s' if threads > 1 else ''})"


def cpu_model() -> str:
    """The name the CPU gives itself, on Linux; elsewhere what Python knows of it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
