"""Training one trial: set up, then epoch by epoch train, validate, checkpoint, report."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers.augmentations import build_augmentation
from trainers.batches import count_batches, evaluation_batches, normalise, training_batches
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, Split
from trainers.distributed import ALONE, Group, check_workers
from trainers.evaluation import ConfusionMatrix, SegmentationMetrics
from trainers.losses import build_loss
from trainers.models import build_model
from trainers.optimizers import build_optimizer, build_schedule
from trainers.profiling import autocast, faster_precision, fresh_model
from trainers.settings import ConfigError

LOSS_CHECK_STEPS = 50
"""Steps on a GPU after which the losses are looked at: to look is to wait for all that the GPU has yet to do."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message is the reason recorded for the trial."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What is reported after each epoch; metrics without ``train`` are over the whole validation set."""

    epoch: int
    miou: float
    miou_foreground: float
    pixel_accuracy: float
    mean_class_accuracy: float
    val_loss: float
    train_loss: float
    """Of the epoch's training batches, as are the next three: augmented, and as the model was when it met them."""
    train_miou: float
    train_pixel_accuracy: float
    train_mean_class_accuracy: float
    lr: float
    epoch_time_s: float
    train_time_s: float
    images_per_s: float
    iou: list[float]
    """One value a class, NaN for a class absent from prediction and truth."""


def resolve_device(name: str) -> torch.device:
    """``auto`` becomes a GPU when there is one.

    Raises:
        ConfigError: ``cuda`` without a usable GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "training.device=cuda, but torch sees no GPU here. Use training.device=cpu, or check drivers."
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def train(config: TrialConfig, data: SegmentationData, folder: Path, group: Group = ALONE) -> Iterator[EpochResult]:
    """Train one trial and yield every epoch, once its checkpoint is durable.

    The checkpoint is written beside the next epoch, so a trial is some steps into that when it yields. What the caller
    does meanwhile changes no number and counts in no time. Several workers take no step before all know of the epoch.

    If ``folder`` holds a checkpoint of the same trial, its epochs are yielded again from the record and training
    goes on behind them with the numbers an uninterrupted run would have had.

    Workers of one trial call this with the same arguments but their own ``group``, and take every epoch together.
    All have the same results but for times; rank 0 alone needs ``folder``. With another number of workers the trial
    is the same one, and its numbers agree up to the order of sums, if two things do not matter: statistics of batches
    without ``training.sync_batchnorm``, and dropout, which is another draw in each worker.

    Raises:
        TrainingError: the loss is no longer finite; all workers raise it.
        CheckpointError: ``folder`` holds the checkpoint of another trial.
        ConfigError: as :func:`~trainers.distributed.check_workers`.
        WorkerLostError: another worker is gone, which includes that it raised something of its own and then ended.
    """
    with group.watched():
        yield from _train(config, data, Checkpoints(folder), group)


def _train(
    config: TrialConfig, data: SegmentationData, checkpoints: Checkpoints, group: Group
) -> Iterator[EpochResult]:
    trial = Trial(config, data, group)
    first = group.rank == 0
    history: list[EpochResult] = []
    saved = group.share(checkpoints.load_last(config.to_dict()) if first else None)
    if saved is not None:
        trial.load_state(saved["state"])
        history = [EpochResult(**values) for values in saved["history"]]
        yield from history
    classes = [{"name": item.name, "color": list(item.color)} for item in data.classes]
    about = {"config": config.to_dict(), "classes": classes}
    with ThreadPoolExecutor(1, thread_name_prefix="checkpoints") as writer:
        writing: Future[EpochResult] | None = None
        for epoch in range(len(history) + 1, config.training.epochs + 1):
            spent_s = history[-1].train_time_s if history else 0.0
            history.append((yield from _beside(writing, trial.run_epoch(epoch, spent_s), trial.device)))
            writing = writer.submit(_keep, checkpoints, about, [*history], trial.copied_state() if first else None)
            if group.size > 1:
                yield writing.result()
                writing = None
        if writing is not None:
            yield writing.result()


def _beside(
    writing: Future[EpochResult] | None, steps: Iterator[EpochResult | None], device: torch.device
) -> Generator[EpochResult, None, EpochResult]:
    """Take the steps of an epoch, yield the epoch before it as soon as that is written, and return the new one."""
    result = None
    while result is None:
        try:
            result = next(steps)
        except Exception:
            if writing is not None:  # It is the new epoch that fails.
                yield writing.result()
            raise
        if writing is not None and (result is not None or writing.done()):
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                yield writing.result()
            writing = None
    return result


def _keep(
    checkpoints: Checkpoints, about: Mapping[str, Any], history: Sequence[EpochResult], state: dict[str, Any] | None
) -> EpochResult:
    """Return the last epoch of ``history`` once its checkpoints are written, which rank 0 has a ``state`` for."""
    *before, result = history
    if state is not None:
        if result.miou > max((earlier.miou for earlier in before), default=-math.inf):
            checkpoints.save_best({**about, "model": state["model"], "metrics": dataclasses.asdict(result)})
        rows = [dataclasses.asdict(item) for item in history]
        checkpoints.save_last({"config": about["config"], "state": state, "history": rows})
    return result


class Stopwatch:
    """Seconds since it was made, but for those in which it was stopped."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Until now."""
        return time.perf_counter() - self._started

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Count no time inside."""
        left = time.perf_counter()
        yield
        self._started += time.perf_counter() - left


class Trial:
    """Model, loss, optimizer and schedule of one trial on one device, for one of its workers."""

    def __init__(self, config: TrialConfig, data: SegmentationData, group: Group = ALONE) -> None:
        self.config, self.data, self.group = config, data, group
        training = config.training
        self.device = resolve_device(training.device)
        check_workers(training, group.size, self.device)
        decides = group.rank == 0
        self.precision: str = group.share(resolve_precision(config, data.num_classes, self.device) if decides else None)
        torch.manual_seed(training.seed)
        model = build_model(config.model, data.num_classes)
        if training.sync_batchnorm and group.size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = place_model(model, self.device, self.precision)
        self._trained = group.parallel(self.model)
        self.loss = build_loss(config.loss, data.class_counts(), group).to(self.device)
        self.optimizer = build_optimizer(config.optimizer, self.model.parameters())
        steps = count_batches(len(data.train), training.batch_size)
        self.schedule = build_schedule(config.schedule, self.optimizer, training.epochs, steps)
        self.augmentation = build_augmentation(config.augmentation, config.data.crop)

    def run_epoch(self, epoch: int, spent_s: float) -> Iterator[EpochResult | None]:
        """Train and validate one epoch, numbered from 1; ``spent_s`` is the time of the epochs before.

        Yields:
            None after each step of training, and then the result. What passes until the next is wanted does not count.
        """
        watch = Stopwatch()
        train_loss, images, training = yield from self._train_epoch(epoch, watch)
        train_s = watch.seconds
        val_loss, metrics = evaluate(self, self.data.val)
        epoch_s = watch.seconds
        yield EpochResult(
            epoch=epoch,
            miou=metrics.miou,
            miou_foreground=metrics.miou_foreground,
            pixel_accuracy=metrics.pixel_accuracy,
            mean_class_accuracy=metrics.mean_class_accuracy,
            val_loss=val_loss,
            train_loss=train_loss,
            train_miou=training.miou,
            train_pixel_accuracy=training.pixel_accuracy,
            train_mean_class_accuracy=training.mean_class_accuracy,
            lr=float(self.optimizer.param_groups[0]["lr"]),
            epoch_time_s=epoch_s,
            train_time_s=spent_s + epoch_s,
            images_per_s=images / train_s,
            iou=[float(value) for value in metrics.iou],
        )

    def _train_epoch(
        self, epoch: int, watch: Stopwatch
    ) -> Generator[None, None, tuple[float, int, SegmentationMetrics]]:
        """Mean loss, number of images, and metrics of one pass over the training images."""
        training = self.config.training
        # Dropout draws from the global generator: seeding it per epoch makes a resumed epoch the same epoch.
        torch.manual_seed(training.seed * 1_000_003 + epoch + (self.group.rank << 52))
        self.model.train()
        total, images = torch.zeros((), device=self.device), 0
        confusion = ConfusionMatrix(self.data.num_classes, self.device)
        split, crop = self.data.train, self.config.data.crop
        on_gpu = self.device.type == "cuda"
        batches = training_batches(
            split, self.augmentation, crop, training.batch_size, training.seed, epoch, self.group, pinned=on_gpu
        )
        for step, (pixels, target) in enumerate(batches, start=1):
            truth = target.to(self.device, non_blocking=True)
            logits = compute_logits(self._trained, pixels, self.device, self.precision)
            loss = self.loss(logits, truth)
            size = min(training.batch_size, len(split) - images)
            total += loss.detach() * size
            images += size
            if not on_gpu or step % LOSS_CHECK_STEPS == 0:
                _require_finite(total, epoch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            confusion.update(logits.detach().argmax(1), truth)
            with watch.stopped():
                yield
        _require_finite(total, epoch)
        self.group.average_statistics(self.model)
        return total.item() / images, images, confusion.compute(self.group)

    def compute_logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, h, w) in float32 of uint8 images (n, 3, h, w)."""
        return compute_logits(self.model, pixels, self.device, self.precision)

    def copied_state(self) -> dict[str, Any]:
        """What :meth:`load_state` needs to go on at the next epoch, on the CPU; training on does not change it."""
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        return {name: _copied(part.state_dict()) for name, part in parts.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`copied_state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    copied = copy.copy(state)
    if isinstance(copied, dict):
        copied.update({key: _copied(value) for key, value in copied.items()})
    elif isinstance(copied, list):
        copied[:] = map(_copied, copied)
    return copied


def _require_finite(loss: torch.Tensor, epoch: int) -> None:
    if not torch.isfinite(loss):
        raise TrainingError(f"The loss became {loss.item()} in epoch {epoch}; a lower optimizer.lr may help.")


def place_model(model: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """The model on its device, laid out as :func:`compute_logits` wants it."""
    placed: nn.Module = model.to(device, memory_format=_layout(device, precision))  # type: ignore[call-overload]
    return placed


def compute_logits(model: nn.Module, pixels: torch.Tensor, device: torch.device, precision: str) -> torch.Tensor:
    """Logits (n, classes, h, w) in float32 of uint8 images (n, 3, h, w), by a model that was placed for it."""
    with autocast(device, precision):
        images = normalise(pixels.to(device, non_blocking=True))
        logits: torch.Tensor = model(images.contiguous(memory_format=_layout(device, precision)))
    return logits.float()


def _layout(device: torch.device, precision: str) -> torch.memory_format:
    return torch.channels_last if precision == "bf16" or device.type == "cuda" else torch.contiguous_format


@torch.inference_mode()
def evaluate(trial: Trial, split: Split) -> tuple[float, SegmentationMetrics]:
    """Mean loss per image, and metrics from one confusion matrix, over all of ``split``."""
    trial.model.eval()
    confusion = ConfusionMatrix(trial.data.num_classes, trial.device)
    total, images = torch.zeros((), device=trial.device), 0
    batch_size = trial.config.training.batch_size
    for pixels, target in evaluation_batches(split, batch_size, trial.group):
        truth = target.to(trial.device, non_blocking=True)
        logits = trial.compute_logits(pixels)
        size = min(batch_size, len(split) - images)
        total += trial.loss(logits, truth) * size
        images += size
        confusion.update(logits.argmax(1), truth)
    return total.item() / len(split), confusion.compute(trial.group)


def resolve_precision(config: TrialConfig, num_classes: int, device: torch.device) -> str:
    """``fp32`` or ``bf16``; ``auto`` measures a training step of this architecture here."""
    if config.training.precision != "auto":
        return config.training.precision
    model = fresh_model(config.model, num_classes).to(device)
    return faster_precision(model, training_shape(config))


def training_shape(config: TrialConfig) -> tuple[int, int, int]:
    """(batch, height, width) of a training step."""
    crop = config.data.crop
    height, width = (crop, crop) if crop is not None else (config.data.height, config.data.width)
    return config.training.batch_size, height, width


def untrained_metrics(config: TrialConfig, data: SegmentationData) -> SegmentationMetrics:
    """What the trial's model reaches on the validation set before its first step: a reference line."""
    _, metrics = evaluate(Trial(config, data), data.val)
    return metrics
