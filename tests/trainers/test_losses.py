"""Losses against slow references in double precision, and where little or nothing is labelled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.choices import CLASS_WEIGHTS, LOSSES
from trainers.config import LossConfig, LossTerms
from trainers.datasets import ClassCounts
from trainers.losses import CrossEntropy, Dice, Focal, Hinge, Lovasz, build_loss
from trainers.settings import ConfigError

Array = NDArray[np.float64]
PIXELS = np.array([900, 100, 0, 25], dtype=np.int64)
"""Training pixels of four classes, of which training never shows class 2."""
COUNTS = ClassCounts(PIXELS, np.full(4, PIXELS.sum()))
TERMS = LossTerms(cross_entropy=0.5, focal=1.5, dice=0, lovasz=2, hinge=0.25)
BETA = 0.99


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings_of(name: str, class_weights: str = "none", **more: Any) -> LossConfig:
    return LossConfig(name=name, class_weights=class_weights, terms=TERMS, effective_beta=BETA, **more)


def some_batch(shape: tuple[int, int, int] = (2, 3, 4), scale: float = 2) -> tuple[Tensor, Tensor]:
    """Float32 logits of four classes, and labels of which about a quarter are ignored and none is class 2."""
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(shape[0], 4, *shape[1:], generator=generator)
    target = torch.tensor([0, 1, 3, 255])[torch.randint(0, 4, shape, generator=generator)]
    return logits, target


def slow_weights(class_weights: str) -> list[float]:
    formulas: dict[str, Callable[[int], float]] = {
        "none": lambda _: 1.0,
        "inverse_frequency": lambda n: 1 / n,
        "median_frequency": lambda n: 100 / n,
        "effective_number": lambda n: (1 - BETA) / (1 - BETA**n),
    }
    raw = [formulas[class_weights](n) if n or class_weights == "none" else 0.0 for n in PIXELS.tolist()]
    return [weight * sum(1 for value in raw if value) / sum(raw) for weight in raw]


def slow_pixel(name: str, scores: Array, label: int, gamma: float) -> float:
    if name == "hinge":
        return max(0.0, *(float(1 + scores[j] - scores[label]) for j in range(len(scores)) if j != label))
    probability = math.exp(scores[label]) / sum(math.exp(score) for score in scores)
    return -((1 - probability) ** (gamma if name == "focal" else 0)) * math.log(probability)


def slow_region(name: str, probabilities: Array, truth: NDArray[np.bool_]) -> float:
    """Loss of one class from its probability and truth at each labelled pixel."""
    if name == "dice":
        return 1 - 2 * float(probabilities[truth].sum()) / float(probabilities.sum() + truth.sum())
    errors = np.abs(truth - probabilities)
    total, before, wrong = 0.0, 0.0, np.zeros(len(truth), dtype=bool)
    for index in np.argsort(-errors):
        wrong[index] = True
        prediction = truth ^ wrong
        jaccard = 1 - float((prediction & truth).sum() / (prediction | truth).sum())
        total += float(errors[index]) * (jaccard - before)
        before = jaccard
    return total


def slow_loss(config: LossConfig, logits: Array, target: NDArray[np.int64], weights: list[float]) -> float:
    """The loss from its definition, pixel by pixel or class by class."""
    if config.name == "sum":
        factors = dataclasses.asdict(config.terms)
        parts = {name: dataclasses.replace(config, name=name) for name in factors}
        return float(sum(factors[name] * slow_loss(parts[name], logits, target, weights) for name in factors))
    scores = np.array([logits[i, :, y, x] for i, y, x in np.ndindex(target.shape) if target[i, y, x] != 255])
    labels = np.array([target[i, y, x] for i, y, x in np.ndindex(target.shape) if target[i, y, x] != 255])
    if config.name in ("dice", "lovasz"):
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        shown = sorted(set(labels.tolist()))
        losses = [slow_region(config.name, probabilities[:, label], labels == label) for label in shown]
        counted = [weights[label] for label in shown]
    else:
        losses = [slow_pixel(config.name, *pair, config.focal_gamma) for pair in zip(scores, labels, strict=True)]
        counted = [weights[label] for label in labels]
    return float(np.average(losses, weights=counted))


def slow_gradient(loss: Callable[[Array], float], logits: Array, step: float = 1e-5) -> Array:
    """Central differences."""
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        ahead, behind = logits.copy(), logits.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (loss(ahead) - loss(behind)) / (2 * step)
    return gradient


def value_and_gradient(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize("class_weights", CLASS_WEIGHTS)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_match_the_definition(name: str, class_weights: str) -> None:
    config = settings_of(name, class_weights)
    logits, target = some_batch()
    weights = slow_weights(class_weights)

    def slow(values: Array) -> float:
        return slow_loss(config, values, target.numpy(), weights)

    value, gradient = value_and_gradient(build_loss(config, COUNTS), logits, target)
    doubles = logits.double().numpy()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(slow(doubles), rel=1e-5)
    np.testing.assert_allclose(gradient.numpy(), slow_gradient(slow, doubles), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("class_weights", CLASS_WEIGHTS)
@pytest.mark.parametrize("name", LOSSES)
def test_double_precision_stays_and_its_gradient_is_that_of_finite_differences(name: str, class_weights: str) -> None:
    config = settings_of(name, class_weights)
    loss = build_loss(config, COUNTS)
    logits, target = some_batch()
    doubles = logits.double().requires_grad_()
    value = loss(doubles, target)
    assert value.dtype == torch.float64
    expected = slow_loss(config, logits.double().numpy(), target.numpy(), slow_weights(class_weights))
    assert value.item() == pytest.approx(expected, rel=1e-6 if class_weights != "none" else 1e-12)
    assert torch.autograd.gradcheck(lambda values: loss(values, target), doubles)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 5.0])
def test_focal_at_other_gammas(gamma: float) -> None:
    config = settings_of("focal", focal_gamma=gamma)
    logits, target = some_batch()
    value, gradient = value_and_gradient(build_loss(config, COUNTS), logits, target)
    doubles = logits.double().numpy()

    def slow(values: Array) -> float:
        return slow_loss(config, values, target.numpy(), [1.0] * 4)

    assert value.item() == pytest.approx(slow(doubles), rel=1e-5)
    np.testing.assert_allclose(gradient.numpy(), slow_gradient(slow, doubles), rtol=1e-4, atol=1e-6)


def test_focal_with_gamma_zero_is_cross_entropy() -> None:
    logits, target = some_batch()
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5])
    focal = value_and_gradient(Focal(weights, 0), logits, target)
    torch.testing.assert_close(focal, value_and_gradient(CrossEntropy(weights), logits, target))


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_cross_entropy_is_that_of_torch(dtype: torch.dtype, digits: float) -> None:
    logits, target = (part.to(dtype) if part.is_floating_point() else part for part in some_batch((2, 30, 40)))
    weights = torch.tensor([0.7, 2.3, 0.1, 0.9])
    expected = nn.functional.cross_entropy(logits, target, weights.to(dtype), ignore_index=255)
    torch.testing.assert_close(CrossEntropy(weights)(logits, target), expected, rtol=digits, atol=0)


@pytest.mark.parametrize("class_weights", CLASS_WEIGHTS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("junk", [1e30, -3e38, math.nan, math.inf])
def test_ignored_pixels_change_nothing(name: str, class_weights: str, junk: float) -> None:
    loss = build_loss(settings_of(name, class_weights), COUNTS)
    logits, target = some_batch()
    ignored = (target == 255).unsqueeze(1).expand_as(logits)
    changed = logits.masked_fill(ignored & (torch.arange(4).view(-1, 1, 1) % 2 == 0), junk)
    value, gradient = value_and_gradient(loss, logits, target)
    other_value, other_gradient = value_and_gradient(loss, changed, target)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    assert (other_gradient[ignored] == 0).all()
    assert (other_gradient[~ignored] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_are_as_good_as_cut_away(name: str) -> None:
    loss = build_loss(settings_of(name, "inverse_frequency"), COUNTS)
    logits, target = some_batch()
    kept = target != 255
    value, gradient = value_and_gradient(loss, logits, target)
    rows = logits.movedim(1, -1)[kept].T[None, :, None]
    cut_value, cut_gradient = value_and_gradient(loss, rows, target[kept][None, None])
    torch.testing.assert_close(value, cut_value)
    torch.testing.assert_close(gradient.movedim(1, -1)[kept], cut_gradient[0, :, 0].T)


@pytest.mark.parametrize(
    ("label", "class_weights"),
    [*((255, weighting) for weighting in CLASS_WEIGHTS), *((2, weighting) for weighting in CLASS_WEIGHTS[1:])],
)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_batch_without_weight_costs_exactly_nothing(name: str, class_weights: str, label: int, scale: float) -> None:
    """All pixels ignored, or all of a class that training never showed."""
    logits, _ = some_batch(scale=scale)
    loss = build_loss(settings_of(name, class_weights), COUNTS)
    value, gradient = value_and_gradient(loss, logits, torch.full((2, 3, 4), label))
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_logit_at_a_labelled_pixel_gives_a_nan_loss(name: str) -> None:
    logits, target = some_batch()
    image, row, column = (target != 255).nonzero()[0].tolist()
    logits[image, 0, row, column] = math.nan
    assert build_loss(settings_of(name, "inverse_frequency"), COUNTS)(logits, target).isnan()


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 2.0])
@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_stay_finite(name: str, gamma: float) -> None:
    loss = build_loss(settings_of(name, "inverse_frequency", focal_gamma=gamma), COUNTS)
    logits, target = some_batch(scale=1e4)
    sure = 1e4 * nn.functional.one_hot(target.clamp(max=3), 4).movedim(-1, 1).float()
    for scores in (logits, sure, -sure):
        value, gradient = value_and_gradient(loss, scores, target)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_single(name: str) -> None:
    loss = build_loss(settings_of(name, "effective_number"), COUNTS)
    logits, target = some_batch((2, 32, 32))
    halves = logits.bfloat16()
    expected = loss(halves.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(halves, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_pixels_does_not_matter(name: str) -> None:
    loss = build_loss(settings_of(name, "median_frequency"), COUNTS)
    logits, target = some_batch((2, 6, 5))
    logits[:, :, 3:] = logits[:, :, :3]  # equal errors, too
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = logits.movedim(1, 0).reshape(4, 60)[:, order].reshape(4, 2, 6, 5).movedim(0, 1)
    torch.testing.assert_close(loss(shuffled, target.flatten()[order].reshape(2, 6, 5)), loss(logits, target))


@pytest.mark.parametrize("name", LOSSES)
def test_one_class_only(name: str) -> None:
    """A softmax over one class is sure; nothing can be learned, and nothing breaks."""
    loss = build_loss(settings_of(name, "inverse_frequency"), ClassCounts(PIXELS[:1], PIXELS[:1]))
    logits, target = some_batch()
    value, gradient = value_and_gradient(loss, logits[:, :1], target // 255 * 255)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("class_weights", CLASS_WEIGHTS)
@pytest.mark.parametrize("name", LOSSES)
def test_one_labelled_pixel(name: str, class_weights: str) -> None:
    config = settings_of(name, class_weights)
    logits, _ = some_batch((1, 1, 1))
    target = torch.full((1, 1, 1), 3)
    value, gradient = value_and_gradient(build_loss(config, COUNTS), logits, target)
    assert value.item() == pytest.approx(slow_loss(config, logits.double().numpy(), target.numpy(), [1.0] * 4))
    assert gradient[0, 3] < 0


@pytest.mark.parametrize("loss_class", [Dice, Lovasz])
def test_a_class_without_a_true_pixel_has_no_loss_of_its_own(loss_class: type[Dice] | type[Lovasz]) -> None:
    """The mean is over the classes that the labels of the batch show, whatever the others weigh."""
    logits, target = some_batch()
    one, other = (loss_class(torch.tensor([1.0, 2.0, weight, 0.5]))(logits, target) for weight in (0.0, 100.0))
    assert torch.equal(one, other)


def hard_logits(prediction: Tensor, classes: int) -> Tensor:
    return 1e4 * nn.functional.one_hot(prediction, classes).movedim(-1, 1).float()


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_costs_nothing(name: str) -> None:
    _, target = some_batch((2, 16, 16))
    value = build_loss(settings_of(name), COUNTS)(hard_logits(target.clamp(max=3), 4), target)
    assert value.item() == pytest.approx(0, abs=1e-7)


def test_lovasz_of_a_hard_prediction_is_one_minus_iou_and_dice_one_minus_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, truth = (torch.randint(0, 3, (2, 50, 60), generator=generator) for _ in range(2))
    truth[0, :7] = 255
    weights = torch.tensor([1.0, 2.0, 0.5])
    labelled = truth != 255
    hits = [int(((prediction == k) & (truth == k)).sum()) for k in range(3)]
    sizes = [int(((prediction == k) & labelled).sum()) + int((truth == k).sum()) for k in range(3)]
    iou = np.array([hit / (size - hit) for hit, size in zip(hits, sizes, strict=True)])
    f1 = np.array([2 * hit / size for hit, size in zip(hits, sizes, strict=True)])
    for loss, score in ((Lovasz(weights), iou), (Dice(weights), f1)):
        value = loss(hard_logits(prediction, 3), truth)
        assert value.item() == pytest.approx(np.average(1 - score, weights=weights.numpy()), rel=1e-6)


def test_lovasz_keeps_its_digits_over_many_pixels() -> None:
    """The steps of the Jaccard loss are about one over the pixels: differences of float32 losses would be noise."""
    logits, target = some_batch((4, 128, 128))
    loss = Lovasz(torch.ones(4))
    value, gradient = value_and_gradient(loss, logits, target)
    exact_value, exact_gradient = value_and_gradient(loss, logits.double(), target)
    assert value.item() == pytest.approx(exact_value.item(), rel=1e-6)
    assert (gradient - exact_gradient).norm() < 1e-5 * exact_gradient.norm()


def test_hinge_is_that_of_keras_where_rivals_are_not_negative() -> None:
    """Keras: max(0, 1 + max((1 - truth) * score) - sum(truth * score)), truth one-hot."""
    logits, target = some_batch()
    target = target.masked_fill(target == 255, 2)
    scores = logits.abs()
    truth = nn.functional.one_hot(target, 4).movedim(-1, 1)
    keras = (1 + ((1 - truth) * scores).amax(1) - (truth * scores).sum(1)).clamp(min=0).mean()
    torch.testing.assert_close(Hinge(torch.ones(4))(scores, target), keras)


def test_a_sum_is_the_sum_of_its_terms_without_those_of_factor_zero() -> None:
    logits, target = some_batch()
    factors = dataclasses.asdict(TERMS)
    parts = [
        build_loss(settings_of(name, "inverse_frequency"), COUNTS)(logits, target) * factors[name] for name in factors
    ]
    whole = build_loss(settings_of("sum", "inverse_frequency"), COUNTS)
    torch.testing.assert_close(whole(logits, target), torch.stack(parts).sum())
    kinds = {type(module) for module in whole.modules()}
    assert Dice not in kinds
    assert {CrossEntropy, Focal, Lovasz, Hinge} <= kinds


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_another_number_of_classes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="The loss is for 4 classes; the logits have 5"):
        build_loss(settings_of(name), COUNTS)(torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))


def test_weights_without_a_labelled_pixel_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.class_weights=inverse_frequency needs labelled training pixels"):
        build_loss(LossConfig(class_weights="inverse_frequency"), ClassCounts(0 * PIXELS, 0 * PIXELS))


def test_median_frequency_looks_at_the_images_that_show_a_class() -> None:
    logits, target = some_batch()
    config = settings_of("cross_entropy", "median_frequency")
    value = build_loss(config, ClassCounts(PIXELS, np.array([1025, 500, 0, 50])))(logits, target)
    weights = [1025 / 900, 500 / 100, 0, 50 / 25]
    assert value.item() == pytest.approx(slow_loss(config, logits.double().numpy(), target.numpy(), weights), rel=1e-5)
