"""A Gaussian process that learns mIoU from the trials so far."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

Floats = NDArray[np.float64]

STEPS = 20
"""Of the search for the kernel's lengths; further ones hardly change a choice."""
LEAST_SCALE = 0.01
"""Differences in mIoU below it are not blown up."""


class Surrogate:
    """mIoU at full budget as a function of the configuration, with its uncertainty.

    A Matérn kernel with a length for each coordinate, plus noise: what another seed would change.
    """

    def __init__(self, points: Floats, mious: Floats, spreads: Floats) -> None:
        """Fit to what is known.

        Args:
            points: configurations, shape ``(n, d)``, in [0, 1].
            mious: their mIoU, known or expected, shape ``(n,)``.
            spreads: standard deviation of what is only expected, shape ``(n,)``; 0 where it is known.
        """
        self._centre, self._scale = float(mious.mean()), max(float(mious.std()), LEAST_SCALE)
        self._points, self._values = points, (mious - self._centre) / self._scale
        self._noise = (spreads / self._scale) ** 2 + 1e-6
        smooth = ConstantKernel(1.0, (0.2, 10.0)) * Matern(np.ones(points.shape[1]), (0.2, 5.0), nu=2.5)
        kernel = smooth + WhiteKernel(0.03, (1e-3, 0.3))
        self._process = GaussianProcessRegressor(kernel, alpha=self._noise, optimizer=_few_steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # A length at its bound is a parameter without effect.
            self._process.fit(points, self._values)

    def believe(self, points: Floats) -> Floats:
        """Take what is expected at ``points`` (m, d) for known, and return it, shape ``(m,)``.

        So trials that run make what lies near them no longer worth a look ("kriging believer", Ginsbourger, Le Riche
        and Carraro 2010).
        """
        if not len(points):
            return np.empty(0)
        values = self._process.predict(points)
        self._points, self._values = np.vstack((self._points, points)), np.append(self._values, values)
        self._noise = np.append(self._noise, np.full(len(points), 1e-6))
        self._process = GaussianProcessRegressor(self._process.kernel_, alpha=self._noise, optimizer=None)
        self._process.fit(self._points, self._values)
        believed: Floats = values * self._scale + self._centre
        return believed

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation at ``points`` (m, d), each of shape ``(m,)``; without the luck of a seed."""
        mean, spread = self._process.predict(points, return_std=True)
        lasting = np.maximum(spread**2 - self._process.kernel_.k2.noise_level, 1e-8)
        return mean * self._scale + self._centre, np.sqrt(lasting) * self._scale


def _few_steps(objective: Callable[..., Any], initial: Floats, bounds: Floats) -> tuple[Floats, float]:
    """L-BFGS-B, cut short since a search waits for it at each draw."""
    found = minimize(objective, initial, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": STEPS})
    return found.x, found.fun
