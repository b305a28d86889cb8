"""Optimizers get what the configuration says; schedules match their formulas, step by step."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from trainers.choices import OPTIMIZERS, SCHEDULES
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
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("adamax", torch.optim.Adamax),
        ("sgd", torch.optim.SGD),
    ],
)
def test_optimizer_is_the_named_one_with_its_settings(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = OptimizerConfig(name=name, lr=0.02, momentum=0.7, weight_decay=0.01)
    optimizer = build_optimizer(config, [parameter()])
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    assert optimizer.param_groups[0].get("momentum", 0.7) == 0.7


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_steps_are_those_of_torch_without_fusing(name: str) -> None:
    weights = [nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2)]
    config = OptimizerConfig(name=name, lr=0.02, momentum=0.7, weight_decay=0.01)
    ours, plain = (build_optimizer(config, [weight]) for weight in weights)
    assert ours.param_groups[0]["fused"]
    plain.param_groups[0]["fused"] = False
    for step in range(5):
        for weight, optimizer in zip(weights, (ours, plain), strict=True):
            weight.grad = torch.cos(weight.detach() * (3 + step))
            optimizer.step()
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


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


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    weight = parameter()
    optimizer = build_optimizer(OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.2), [weight])
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert weight.tolist() == pytest.approx([1 - 0.1 * 0.2] * 3), "without a gradient only the decay is left"


def test_every_optimizer_that_can_be_chosen_can_be_built() -> None:
    kinds = {type(build_optimizer(OptimizerConfig(name=name), [parameter()])) for name in OPTIMIZERS}
    assert len(kinds) == len(OPTIMIZERS)


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


def test_keras_time_decay_has_the_values_of_its_definition() -> None:
    schedule = schedule_of(ScheduleConfig(name="time_decay", decay=0.25))
    expected = [0.5, 0.4, 1 / 3, 2 / 7, 0.25, 2 / 9, 0.2]
    assert walk(schedule, 7) == pytest.approx(expected, rel=1e-12)


def test_multistep_of_the_reports_has_the_values_of_its_definition() -> None:
    optimizer = build_optimizer(OptimizerConfig(name="sgd", lr=1e-3), [parameter()])
    schedule = build_schedule(ScheduleConfig(name="multistep"), optimizer, epochs=70, steps_per_epoch=3)
    rates = walk(schedule, 70 * 3)
    table = {0: 1e-3, 59: 1e-3, 60: 3e-4, 119: 3e-4, 120: 9e-5, 179: 9e-5, 180: 2.7e-5, 209: 2.7e-5}
    assert {step: rates[step] for step in table} == pytest.approx(table, rel=1e-12)


def test_warm_up_rises_in_equal_steps_from_above_zero_to_the_whole_rate() -> None:
    rates = walk(schedule_of(ScheduleConfig(warmup_epochs=0.8)), 6)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5], rel=1e-12)


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.05, 1.5, 6.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_multiplies_every_schedule_which_does_not_wait(name: str, warmup_epochs: float) -> None:
    settings = {"name": name, "milestones": [1, 4], "decay": 0.04}
    plain = walk(schedule_of(ScheduleConfig(**settings)), STEPS)  # type: ignore[arg-type]
    warm = walk(schedule_of(ScheduleConfig(**settings, warmup_epochs=warmup_epochs)), STEPS)  # type: ignore[arg-type]
    length = round(warmup_epochs * STEPS_PER_EPOCH)
    expected = [rate * min(1, (step + 1) / (length + 1)) for step, rate in enumerate(plain)]
    assert warm == pytest.approx(expected, rel=1e-12)
    assert warm[0] > 0


@pytest.mark.parametrize("stop", [3, 12], ids=["in the warm-up", "after it"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_resumes_where_it_was(name: str, stop: int) -> None:
    config = ScheduleConfig(name=name, milestones=[2, 4], decay=0.04, warmup_epochs=1.6)
    unbroken = schedule_of(config)
    expected = walk(unbroken, STEPS)[stop:]
    stopped = schedule_of(config)
    walk(stopped, stop)
    resumed = schedule_of(config)
    resumed.optimizer.load_state_dict(stopped.optimizer.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    assert walk(resumed, STEPS - stop) == expected
