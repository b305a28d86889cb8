"""Losses against a slow reference in double precision, and where nothing is labelled."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainers.config import LossConfig
from trainers.losses import CrossEntropy, build_loss, inverse_frequency
from trainers.settings import ConfigError

PIXELS = np.array([900, 100, 0, 25], dtype=np.int64)


def reference(
    logits: NDArray[np.float64], target: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Loss and gradient of weighted cross-entropy, pixel by pixel."""
    loss, mass = 0.0, 0.0
    gradient = np.zeros_like(logits)
    for image, row, column in np.ndindex(target.shape):
        label = target[image, row, column]
        if label == 255:
            continue
        scores = logits[image, :, row, column]
        probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        loss -= float(weights[label] * np.log(probabilities[label]))
        gradient[image, :, row, column] = weights[label] * (probabilities - np.eye(len(weights))[label])
        mass += float(weights[label])
    return loss / mass, gradient / mass


@pytest.mark.parametrize("class_weights", ["none", "inverse_frequency"])
def test_loss_and_gradient_match_the_definition(class_weights: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 4, 5, 6, generator=generator)).requires_grad_()
    target = torch.tensor([0, 1, 3, 255])[torch.randint(0, 4, (2, 5, 6), generator=generator)]
    loss = build_loss(LossConfig(class_weights=class_weights), PIXELS)
    value = loss(logits, target)
    value.backward()
    weights = np.ones(4) if class_weights == "none" else inverse_frequency(PIXELS).double().numpy()
    expected, gradient = reference(logits.detach().double().numpy(), target.numpy(), weights)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-4, atol=1e-7)


def test_inverse_frequency_is_one_over_the_pixels_with_mean_one_over_the_present() -> None:
    weights = inverse_frequency(PIXELS).double().numpy()
    assert weights[2] == 0
    np.testing.assert_allclose(weights[[0, 1, 3]] * [900, 100, 25], weights[0] * 900, rtol=1e-6)
    assert weights[[0, 1, 3]].mean() == pytest.approx(1)


def test_inverse_frequency_without_a_labelled_pixel_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs labelled training pixels"):
        build_loss(LossConfig(class_weights="inverse_frequency"), np.zeros(4, dtype=np.int64))


@pytest.mark.parametrize("label", [255, 2])
def test_a_batch_without_weight_costs_exactly_nothing(label: int) -> None:
    """All pixels ignored, or all of a class that training never showed: weight 0."""
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    value = build_loss(LossConfig(class_weights="inverse_frequency"), PIXELS)(logits, torch.full((2, 3, 3), label))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_nan_logit_gives_a_nan_loss() -> None:
    logits = torch.zeros(1, 4, 2, 2)
    logits[0, 0, 0, 0] = float("nan")
    assert CrossEntropy(torch.ones(4))(logits, torch.zeros(1, 2, 2, dtype=torch.int64)).isnan()


def test_bf16_logits_are_summed_in_single_precision() -> None:
    logits = torch.zeros(1, 4, 64, 64, dtype=torch.bfloat16)
    value = CrossEntropy(torch.ones(4))(logits, torch.zeros(1, 64, 64, dtype=torch.int64))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(np.log(4), rel=1e-6)


def test_weights_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(RuntimeError):
        CrossEntropy(torch.ones(5))(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
