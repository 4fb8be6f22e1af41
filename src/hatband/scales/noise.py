"""The standard deviation of the noise as a function of rows: given, or learned from held-out residuals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state

from hatband.arrays.typing import Array
from hatband.fitted.rows import Rows
from hatband.scales.learned import design
from hatband.scales.learners import fit_regressor, positive

FOLDS = 3
# Deviation of normal noise whose mean size is 1.
NORMAL = float(np.sqrt(np.pi / 2))


@dataclass(frozen=True)
class Temper:
    """level * deviation^exponent; the exponent is the trust in the deviations, from 0 (none) to 1 (full).

    Parameters
    ----------
    exponent : float
        0 makes them all equal, 1 leaves them unchanged.
    level : float
        Makes their mean size that of the residuals.
    """

    exponent: float
    level: float

    @classmethod
    def of(cls, size: Array, deviation: Array, weight: Array | None = None) -> "Temper":
        """Maximise the likelihood prod_i exp(-size_i / m_i) / m_i, m = level deviation^exponent, of held-out sizes.

        Parameters
        ----------
        size : array (n,)
            |residual| of rows that the deviations were not fitted to, over the share that is not noise.
        deviation : array (n,)
            > 0.
        weight : array (n,), optional
        """
        logs = np.log(deviation)
        middle = float(np.average(logs, weights=weight))

        def level(exponent: float) -> float:
            return float(np.average(size * np.exp(-exponent * (logs - middle)), weights=weight))

        def deviance(exponent: float) -> float:
            return float(np.log(max(level(exponent), np.finfo(float).tiny)))

        # The mean of exponent * (logs - middle) is 0, and so no part of the deviance; level is convex in the exponent.
        found = minimize_scalar(deviance, bounds=(0.0, 1.0), method="bounded")
        exponent = min((0.0, float(found.x), 1.0), key=deviance)
        spread = level(exponent) * np.exp(-exponent * middle)
        return cls(exponent, NORMAL * spread if spread > 0 else 1.0)

    def __call__(self, deviation: Array) -> Array:
        """Return tempered deviations."""
        return self.level * deviation**self.exponent


@dataclass(frozen=True, eq=False)
class GivenNoise:
    """Noise of one output, from a function of rows.

    Parameters
    ----------
    function : callable(rows) -> array (m,) or (m, q)
    output : int
    """

    function: Callable[[Rows], Array]
    output: int

    def __call__(self, rows: Rows) -> Array:
        """Return sigma(x), (m,)."""
        values = np.asarray(self.function(rows), dtype=np.float64).reshape(len(rows), -1)
        return positive(values[:, self.output % values.shape[1]], self.function)


@dataclass(frozen=True, eq=False)
class LearnedNoise:
    """Noise from a regression of |residual|, tempered by how well it does on rows held out from it.

    Parameters
    ----------
    regressor : fitted regressor
    columns : tuple of str
        What it sees.
    temper : Temper
    """

    regressor: Any
    columns: tuple[str, ...]
    temper: Temper

    @classmethod
    def of(
        cls,
        regressor: Any,
        columns: tuple[str, ...],
        rows: Rows,
        size: Array,
        *,
        weight: Array | None = None,
        random_state: Any = None,
    ) -> "LearnedNoise":
        """Learn from rows of one output and the sizes (n,) > 0 of their residuals: one fit, and one per fold."""
        X = design(rows, columns)
        held = np.empty(len(size))
        seed = check_random_state(random_state).randint(2**31 - 1)
        for train, test in KFold(min(FOLDS, len(size)), shuffle=True, random_state=seed).split(X):
            part = None if weight is None else weight[train]
            held[test] = _predicted(fit_regressor(regressor, X[train], size[train], part), X[test])
        return cls(fit_regressor(regressor, X, size, weight), columns, Temper.of(size, held, weight))

    def __call__(self, rows: Rows) -> Array:
        """Return sigma(x), (m,)."""
        return self.temper(_predicted(self.regressor, design(rows, self.columns)))


NoiseModel = GivenNoise | LearnedNoise


def _predicted(regressor: Any, X: Array) -> Array:
    return positive(regressor.predict(X), regressor)
