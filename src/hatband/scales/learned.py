"""Scales learned from the size or the quantiles of held-out residuals.

A learner sees the chosen columns of the rows of one output; an envelope keeps the width that it learns in bounds.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_in
from hatband.fitted.rows import Rows
from hatband.scales.base import Scale, check_training_rows, outputs
from hatband.scales.learners import (
    ForestBounds,
    Learner,
    MagnitudeBounds,
    RegressorBounds,
    magnitude_regressor,
    smallest_width,
)

DEFAULT_LEVEL = 0.9
COLUMNS = ("leverage", "prediction", "inputs")
# Within float32, which trees compute in; a leverage may be 0 or infinite.
SMALLEST, LARGEST = 1e-30, 1e30


def check_columns(columns: tuple[str, ...]) -> None:
    """Raise unless there is at least one column and every name is that of a column of rows."""
    if not columns:
        raise ValueError(f"columns must name at least one of {list(COLUMNS)}; got {columns!r}.")
    for column in columns:
        check_in(column, COLUMNS, "columns")


def design(rows: Rows, columns: tuple[str, ...]) -> Array:
    """Return the columns of rows with one output as numbers (m, k): leverage by its logarithm, NaN only in inputs."""
    parts = {
        "leverage": lambda: np.log(np.clip(rows.leverage, SMALLEST, LARGEST)).reshape(len(rows), 1),
        "prediction": lambda: rows.prediction,
        "inputs": lambda: rows.inputs,
    }
    return np.clip(np.hstack([parts[column]() for column in columns]), -LARGEST, LARGEST)


@dataclass(frozen=True)
class Envelope:
    """Bounds of the width of one output, taken from training rows.

    A learner knows nothing beyond its training rows, and a tree returns there whatever its outermost leaf holds. So a
    row whose leverage reaches the largest of the training rows gets the largest training width; and where the model
    extrapolates too, its prediction leaving the range of the training rows, that width grows with its standard error,
    by sqrt((1 + h) / (1 + reach)).

    Parameters
    ----------
    floor : float
        Smallest width: 1e-3 of the median |residual|.
    ceiling : float
        Largest width at a training row.
    reach : float
        Leverage from which a row lies beyond the training rows.
    lowest, highest : float
        Range of the training predictions.
    """

    floor: float
    ceiling: float
    reach: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, rows: Rows, width: Array, residual: Array) -> "Envelope":
        """Take the bounds from training rows of one output, their raw widths (n,) and residuals (n,)."""
        floor = smallest_width(residual)
        prediction = rows.prediction
        ceiling = max(float(width.max()), floor)
        return cls(floor, ceiling, reach(rows.leverage), float(prediction.min()), float(prediction.max()))

    def widths(self, rows: Rows, raw: Array, growth: bool) -> Array:
        """Clip raw widths (m,) to the bounds; a row of infinite leverage has infinite width."""
        h, prediction = rows.leverage, rows.prediction[:, 0]
        width = np.where(h >= self.reach, self.ceiling, np.clip(raw, self.floor, self.ceiling))
        if growth:
            extrapolates = (prediction < self.lowest) | (prediction > self.highest)
            width = np.where(extrapolates, width * np.sqrt((1 + np.maximum(h, self.reach)) / (1 + self.reach)), width)
        return np.where(np.isinf(h), np.inf, width)


def reach(leverage: Array) -> float:
    """Return the largest finite leverage, less the share 4 / n by which leave-one-out can increase it."""
    finite = leverage[np.isfinite(leverage)]
    return float(finite.max() * max(1 - 4 / len(finite), 0.0)) if finite.size else np.inf


@dataclass(frozen=True, eq=False)
class LearnedBand:
    """Shift (u + l) / 2 and width (u - l) / 2 of one output, from bounds l, u on its residual.

    Parameters
    ----------
    learner : fitted Learner
    columns : tuple of str
        What it sees.
    envelope : Envelope
        What keeps widths in bounds.
    """

    learner: Learner
    columns: tuple[str, ...]
    envelope: Envelope

    @classmethod
    def of(
        cls, learner: Learner, columns: tuple[str, ...], rows: Rows, residual: Array, weight: Array | None
    ) -> "LearnedBand":
        """Learn from training rows of one output and their held-out residuals (n,)."""
        X = design(rows, columns)
        low, high = learner.fit(X, residual, weight).bounds(X)
        return cls(learner, columns, Envelope.of(rows, (high - low) / 2, residual))

    def at(self, rows: Rows, growth: bool) -> tuple[Array, Array]:
        """Return shift and width, both (m,)."""
        low, high = self.learner.bounds(design(rows, self.columns))
        return (low + high) / 2, self.envelope.widths(rows, (high - low) / 2, growth)


class LearnedScale(Scale):
    """A scale with one learned band for each output; subclasses differ in the learner."""

    needs_residuals: ClassVar[bool] = True
    columns: tuple[str, ...]
    growth: bool

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Learn from training rows and their held-out residuals (n, q)."""
        rows, residuals, weight = check_training_rows(self, rows, residuals, sample_weight)
        check_columns(self.columns)
        self.bands_ = [
            LearnedBand.of(self._learner(), self.columns, one, residual, weight)
            for one, residual in zip(outputs(rows, residuals.shape[1]), residuals.T, strict=True)
        ]
        return self

    def predict(self, rows: Rows) -> tuple[Array, Array]:
        """Return shift and width, both (m, q)."""
        views = zip(self.bands_, outputs(rows, len(self.bands_)), strict=True)
        shifts, widths = zip(*(band.at(one, self.growth) for band, one in views), strict=True)
        return np.stack(shifts, axis=1), np.stack(widths, axis=1)

    @abstractmethod
    def _learner(self) -> Learner:
        """Return the unfitted learner."""


class MagnitudeScale(LearnedScale):
    """Width E[|residual| given leverage, prediction and inputs], learned from held-out residuals of training rows.

    Parameters
    ----------
    regressor : regressor with positive predictions, or None, default=None
        None: ``HistGradientBoostingRegressor`` with gamma loss, 60 trees of at most 8 leaves.
    columns : tuple of str, default=("leverage", "prediction", "inputs")
        What the regressor sees: log h(x), the prediction, the numeric inputs of the model.
    growth : bool, default=True
        Whether the width keeps growing, by sqrt((1 + h) / (1 + h_max)), for rows beyond the largest training leverage
        h_max whose prediction leaves the range of the training predictions. Without it, rows beyond h_max get the
        largest training width.
    random_state : int, RandomState or None, default=None
        For the default regressor. None: that of the estimator around the scale.

    Attributes
    ----------
    bands_ : list
        One for each output: the fitted learner, the columns that it sees, and the envelope of the training widths.

    Raises
    ------
    ValueError
        If columns names none or an unknown one, or the regressor predicts a magnitude that is not positive and finite.

    Notes
    -----
    Widths never fall below 1e-3 of the median |residual|. Cost: one fit per output. Papadopoulos and Haralambous
    (2011) and Lei et al. (2018), section 5.2, with held-out residuals in place of those of the fit.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import MagnitudeScale, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=MagnitudeScale(), random_state=0).fit(X, y)
    >>> model.predict_interval(X)[1].shape
    (442, 2)
    """

    def __init__(
        self,
        regressor: Any = None,
        columns: tuple[str, ...] = COLUMNS,
        *,
        growth: bool = True,
        random_state: Any = None,
    ) -> None:
        self.regressor = regressor
        self.columns = columns
        self.growth = growth
        self.random_state = random_state

    def _learner(self) -> Learner:
        return MagnitudeBounds(magnitude_regressor(self.random_state) if self.regressor is None else self.regressor)


class QuantileScale(LearnedScale):
    """Shift (u + l) / 2 and width (u - l) / 2 from quantiles l, u of the signed held-out residual given what is known.

    Conformalised quantile regression of the model's leave-one-out residuals: the calibrated interval is not centred on
    the prediction and may, rarely, not contain it.

    Parameters
    ----------
    level : float or None, default=None
        Share of rows between l and u. None: the first confidence level of the estimator around the scale, else 0.9.
        The interval is valid at every level; at this one it is sharpest.
    regressor : regressor with a parameter named quantile, or None, default=None
        None: a forest of extremely randomised trees that keep observed residuals in their leaves; it averages the
        quantiles of three tails, 1, 1.6 and 2.4 times (1 - level) / 2.
    columns : tuple of str, default=("leverage", "prediction", "inputs")
        What the regressor sees: log h(x), the prediction, the numeric inputs of the model.
    growth : bool, default=True
        Whether the width keeps growing, by sqrt((1 + h) / (1 + h_max)), for rows beyond the largest training leverage
        h_max whose prediction leaves the range of the training predictions. Without it, rows beyond h_max get the
        largest training width.
    n_trees : int, default=100
        Trees of the default forest.
    random_state : int, RandomState or None, default=None
        For the default forest. None: that of the estimator around the scale.

    Attributes
    ----------
    bands_ : list
        One for each output: the fitted learner, the columns that it sees, and the envelope of the training widths.

    Raises
    ------
    ValueError
        If columns names none or an unknown one, or the level is not inside (0, 1).
    TypeError
        If the regressor has no parameter named quantile.

    Notes
    -----
    Widths never fall below 1e-3 of the median |residual|. Cost: one forest, or two fits of the regressor, per output.
    Romano, Patterson and Candes (2019), *Conformalized quantile regression*, on residuals of a model that is kept.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import QuantileScale, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=QuantileScale(), random_state=0).fit(X, y)
    >>> model.predict_interval(X)[1].shape
    (442, 2)
    """

    def __init__(
        self,
        level: float | None = None,
        regressor: Any = None,
        columns: tuple[str, ...] = COLUMNS,
        *,
        growth: bool = True,
        n_trees: int = 100,
        random_state: Any = None,
    ) -> None:
        self.level = level
        self.regressor = regressor
        self.columns = columns
        self.growth = growth
        self.n_trees = n_trees
        self.random_state = random_state

    def _learner(self) -> Learner:
        (level, *_), _ = check_confidence_level(DEFAULT_LEVEL if self.level is None else self.level)
        if self.regressor is None:
            return ForestBounds(float(level), self.n_trees, self.random_state)
        return RegressorBounds(float(level), self.regressor)
