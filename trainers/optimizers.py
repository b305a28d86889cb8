"""Optimizers and learning-rate schedules, by name."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainers.config import OptimizerConfig, ScheduleConfig


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimizer that ``config`` describes; what it does not name keeps torch's default.

    Where torch has the whole step as one kernel (fused), on CPU and GPU, that is taken: the same step, but each weight
    is read and written once.
    """
    match config.name:
        case "adam":
            return Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        case "adamw":
            return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        case "adamax":
            return Adamax(parameters, lr=config.lr, weight_decay=config.weight_decay)
        case "sgd":
            momentum = config.momentum
            return SGD(parameters, lr=config.lr, momentum=momentum, weight_decay=config.weight_decay, fused=True)
    raise AssertionError(config.name)


def build_schedule(config: ScheduleConfig, optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> LambdaLR:
    """Build the learning-rate schedule that ``config`` describes, to be stepped after every optimizer step.

    Every schedule is a factor of the initial rate that depends on the step alone, so a warm-up multiplies any of
    them exactly and the position is all that a checkpoint has to hold. (Of torch's own classes some multiply the
    current rate and some replace it: these do not chain.)

    Args:
        config: name and settings; milestones and the length of the warm-up are in epochs.
        optimizer: whose current learning rates are the initial ones.
        epochs: full budget of the trial, at whose end ``cosine`` and ``poly`` reach zero.
        steps_per_epoch: optimizer steps an epoch.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        return warmup_factor(step, warmup_steps) * schedule_factor(config, step, epochs, steps_per_epoch)

    return LambdaLR(optimizer, factor)


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Factor of the rate in a linear warm-up, step 0 being the first.

    The first of n steps has 1 / (n + 1), so that it counts, the last n / (n + 1), and all after them 1.
    """
    return min(1.0, (step + 1) / (warmup_steps + 1))


def schedule_factor(config: ScheduleConfig, step: int, epochs: int, steps_per_epoch: int) -> float:
    """Learning rate of a step over the initial one, without warm-up.

    - ``multistep``: ``gamma`` once for each milestone reached.
    - ``cosine``: (1 + cos(pi step / steps)) / 2 (arXiv 1608.03983, equation 5, without restarts).
    - ``poly``: (1 - step / steps) ** ``power`` (arXiv 1606.00915, section 4.1).
    - ``time_decay``: 1 / (1 + ``decay`` step), the ``decay`` of Keras' optimizers.
    """
    steps = epochs * steps_per_epoch
    match config.name:
        case "constant":
            return 1.0
        case "multistep":
            reached = bisect_right(config.milestones, step // steps_per_epoch)
            return float(config.gamma**reached)
        case "cosine":
            return (1 + math.cos(math.pi * step / steps)) / 2
        case "poly":
            return float((1 - step / steps) ** config.power)
        case "time_decay":
            return 1 / (1 + config.decay * step)
    raise AssertionError(config.name)
