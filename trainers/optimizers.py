"""Optimizers and learning-rate schedules, by name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, Adamax, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, PolynomialLR

from trainers.config import OptimizerConfig, ScheduleConfig


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimizer that ``config`` describes; what it does not name keeps torch's default."""
    match config.name:
        case "adam":
            return Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
        case "adamax":
            return Adamax(parameters, lr=config.lr, weight_decay=config.weight_decay)
        case "sgd":
            return SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    raise AssertionError(config.name)


def build_schedule(config: ScheduleConfig, optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> LRScheduler:
    """Build the learning-rate schedule that ``config`` describes, to be stepped after every optimizer step.

    Args:
        config: name and settings; milestones are in epochs.
        optimizer: whose current learning rates are the initial ones.
        epochs: full budget of the trial, at whose end ``cosine`` and ``poly`` reach zero.
        steps_per_epoch: optimizer steps an epoch.
    """
    steps = epochs * steps_per_epoch
    match config.name:
        case "constant":
            return LambdaLR(optimizer, lambda _: 1.0)
        case "multistep":
            return MultiStepLR(optimizer, [epoch * steps_per_epoch for epoch in config.milestones], config.gamma)
        case "cosine":
            return CosineAnnealingLR(optimizer, steps)
        case "poly":
            return PolynomialLR(optimizer, steps, config.power)
        case "time_decay":
            return LambdaLR(optimizer, lambda step: 1 / (1 + config.decay * step))
    raise AssertionError(config.name)
