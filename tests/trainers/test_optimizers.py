"""Optimizers get what the configuration says; schedules match their formulas, step by step."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from trainers.choices import SCHEDULES
from trainers.config import OptimizerConfig, ScheduleConfig
from trainers.optimizers import build_optimizer, build_schedule

EPOCHS, STEPS_PER_EPOCH = 6, 5
STEPS = EPOCHS * STEPS_PER_EPOCH


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


def walk(schedule: LRScheduler, steps: int) -> list[float]:
    """The learning rate of each of the next ``steps`` optimizer steps."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


def schedule_of(config: ScheduleConfig) -> LRScheduler:
    optimizer = build_optimizer(OptimizerConfig(name="sgd", lr=0.5), [parameter()])
    return build_schedule(config, optimizer, EPOCHS, STEPS_PER_EPOCH)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamax", torch.optim.Adamax), ("sgd", torch.optim.SGD)]
)
def test_optimizer_is_the_named_one_with_its_settings(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = OptimizerConfig(name=name, lr=0.02, momentum=0.7, weight_decay=0.01)
    optimizer = build_optimizer(config, [parameter()])
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    assert optimizer.param_groups[0].get("momentum", 0.7) == 0.7


def test_sgd_steps_by_its_definition() -> None:
    weight = parameter()
    optimizer = build_optimizer(OptimizerConfig(name="sgd", lr=0.1, momentum=0.5, weight_decay=0.2), [weight])
    expected, velocity = 1.0, 0.0
    for _ in range(3):
        weight.grad = torch.full((3,), 2.0)
        optimizer.step()
        velocity = 0.5 * velocity + 2.0 + 0.2 * expected
        expected -= 0.1 * velocity
    assert weight.tolist() == pytest.approx([expected] * 3, rel=1e-6)


FORMULAS: dict[str, Callable[[int], float]] = {
    "constant": lambda _: 1.0,
    "multistep": lambda step: 0.3 ** ((step >= 10) + (step >= 20)),
    "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)),
    "poly": lambda step: (1 - step / STEPS) ** 0.9,
    "time_decay": lambda step: 1 / (1 + 0.04 * step),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_follows_its_formula(name: str) -> None:
    schedule = schedule_of(ScheduleConfig(name=name, milestones=[2, 4], gamma=0.3, power=0.9, decay=0.04))
    expected = [0.5 * FORMULAS[name](step) for step in range(STEPS)]
    assert walk(schedule, STEPS) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_resumes_where_it_was(name: str) -> None:
    config = ScheduleConfig(name=name, milestones=[2, 4], decay=0.04)
    unbroken = schedule_of(config)
    expected = walk(unbroken, STEPS)[12:]
    stopped = schedule_of(config)
    walk(stopped, 12)
    resumed = schedule_of(config)
    resumed.optimizer.load_state_dict(stopped.optimizer.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    assert walk(resumed, STEPS - 12) == expected
