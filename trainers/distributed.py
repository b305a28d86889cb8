"""Several processes that train one trial together, data parallel: what each takes of a batch, and what they add up.

Every worker holds the whole model and takes its slice of every batch. The losses add up their sums over the workers
(:meth:`Group.sum`), so that each worker has the loss of the whole batch, and the gradients are averaged by torch. Who
starts the processes, and what becomes of a trial that lost one, is the caller's affair.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainers.config import TrainingConfig
from trainers.settings import ConfigError

MIN_IMAGES = 2
"""Fewest images a worker trains on at a time: batch normalisation needs two values a channel."""
TIMEOUT_S = 300.0
"""Longest wait of one worker for the others, within a batch as at the start, before it counts them as lost."""
LOOPBACK = "127.0.0.1"


class WorkerLostError(RuntimeError):
    """Another worker of the trial is gone or does not answer: no fault of this one's, nor of the trial's settings."""


@dataclass(frozen=True)
class Meeting:
    """Where the workers of a trial find each other."""

    host: str
    port: int
    size: int
    """Number of workers."""
    backend: str
    """``nccl`` between GPUs, ``gloo`` between CPUs."""


class Group:
    """The workers of a trial, as one of them sees them; this one by itself unless it came from :func:`join`."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self._device = device or torch.device("cpu")

    def part(self, images: int) -> tuple[slice, bool]:
        """Which of the ``images`` of a batch this worker takes, and whether they count.

        A batch too small to give every worker :data:`MIN_IMAGES` is divided among fewer. The others then take its
        first images, which do not count (their labels are to be ignored), since all have to take the same steps.
        """
        busy = min(self.size, max(1, images // MIN_IMAGES))
        if self.rank >= busy:
            return slice(0, min(images, MIN_IMAGES)), False
        return slice(images * self.rank // busy, images * (self.rank + 1) // busy), True

    def sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the workers of tensors of one shape.

        Its gradient is right for what all workers compute alike from sums, once :meth:`parallel` has averaged the
        gradients of the parameters.
        """
        return tensor if self.size == 1 else cast(Tensor, _Sum.apply(tensor, self.size))

    def share(self, content: Any) -> Any:
        """The ``content`` of rank 0 on every worker, as a checkpoint would bring it; that of the others is ignored."""
        if self.size == 1:
            return content
        stream = io.BytesIO()
        torch.save(content, stream)
        packed = torch.frombuffer(bytearray(stream.getbuffer()), dtype=torch.uint8).to(self._device)
        length = torch.tensor([len(packed)], device=self._device)
        dist.broadcast(length, 0)
        if self.rank:
            packed = torch.empty(int(length), dtype=torch.uint8, device=self._device)
        dist.broadcast(packed, 0)
        return torch.load(io.BytesIO(packed.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model``, with gradients that are averaged over the workers; its parameters become those of rank 0."""
        if self.size == 1:
            return model
        # Statistics of batches are averaged once an epoch (average_statistics). Encoders may have layers that no
        # decoder reads: a static graph lets them be.
        return DistributedDataParallel(
            model, forward_sync_buffers=False, gradient_as_bucket_view=True, static_graph=True
        )

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Give the running statistics of batch normalisation, which each worker has from its own images, one value."""
        layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
        running = [cast(Tensor, item) for layer in layers for item in (layer.running_mean, layer.running_var)]
        if self.size == 1 or not running:
            return
        means = self.sum(torch.cat([item.flatten() for item in running])) / self.size
        for item, mean in zip(running, torch.split(means, [item.numel() for item in running]), strict=True):
            item.copy_(mean.view_as(item))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Name the loss of another worker as what it is.

        Raises:
            WorkerLostError: what is done inside fails for that reason.
        """
        try:
            yield
        except RuntimeError as error:
            # Gloo has no class of errors of its own, but names its source files.
            if self.size > 1 and (isinstance(error, dist.DistError) or "gloo/" in str(error)):
                raise WorkerLostError(f"Another worker of the trial is gone or does not answer: {error}") from error
            raise

    def abort(self) -> None:
        """Make a wait for the others fail, from another thread; between CPUs only the end of their processes does."""
        if self.size > 1 and dist.group.WORLD is not None:
            dist.group.WORLD.abort()

    def close(self) -> None:
        """Leave the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Group()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, size: int) -> Tensor:
        ctx.size = size
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # All workers have this same gradient of the sum. Averaging over them divides each one's part by their number.
        return gradient * ctx.size, None


def open_meeting(address: str, size: int, device: torch.device) -> tuple[Meeting, TCPStore]:
    """Rank 0 invites: listens at ``address`` (its own, or :data:`LOOPBACK`) on a free port, and nowhere else.

    Returns:
        What to tell the other workers, and the store, which is to be kept until the trial ends.
    """
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    wait = timedelta(seconds=TIMEOUT_S)
    store = TCPStore(
        address, port, size, is_master=True, timeout=wait, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    return Meeting(address, port, size, "nccl" if device.type == "cuda" else "gloo"), store


def join(
    meeting: Meeting,
    rank: int,
    address: str = LOOPBACK,
    store: TCPStore | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Group:
    """Take part in a meeting; returns once all are there. A process takes part in one at a time.

    Args:
        meeting: from :func:`open_meeting`.
        rank: of this worker, from 0.
        address: of this worker, at which the others reach it.
        store: of rank 0.
        timeout_s: longest wait of this worker for the others, now and later.

    Raises:
        WorkerLostError: not all came in time.
    """
    wait = timedelta(seconds=timeout_s)
    device = torch.device("cuda", 0) if meeting.backend == "nccl" else None
    group = Group(rank, meeting.size, device)
    with group.watched(), _reached_at(address):
        store = store or TCPStore(meeting.host, meeting.port, meeting.size, is_master=False, timeout=wait)
        dist.init_process_group(
            meeting.backend, store=store, rank=rank, world_size=meeting.size, timeout=wait, device_id=device
        )
    return group


@contextmanager
def _reached_at(address: str) -> Iterator[None]:
    """Let Gloo listen on the interface of ``address``: it would take that of the host's name, often loopback."""
    name = "GLOO_SOCKET_IFNAME"
    interfaces = psutil.net_if_addrs().items()
    found = [interface for interface, has in interfaces if any(item.address == address for item in has)]
    if name in os.environ or not found:
        yield
        return
    os.environ[name] = found[0]
    try:
        yield
    finally:
        del os.environ[name]


def check_workers(training: TrainingConfig, workers: int, device: torch.device) -> None:
    """Refuse trials that ``workers`` cannot train together on such devices.

    Raises:
        ConfigError: a batch does not give each :data:`MIN_IMAGES`, or their batch statistics cannot be had in common.
    """
    batch = training.batch_size
    if workers > 1 and batch < MIN_IMAGES * workers:
        fewer = f" or at most {batch // MIN_IMAGES} workers" if batch >= 2 * MIN_IMAGES else ", or 1 worker"
        raise ConfigError(
            f"training.batch_size={batch} is divided among resources.workers_per_trial={workers}, each of which needs "
            f"at least {MIN_IMAGES} images. Use a batch size of at least {MIN_IMAGES * workers}{fewer}."
        )
    if workers > 1 and training.sync_batchnorm and device.type != "cuda":
        raise ConfigError(
            "training.sync_batchnorm=true needs GPUs (torch has it for them only), and this trial trains on the CPU. "
            "Leave it out, or use 1 worker, which needs none."
        )
