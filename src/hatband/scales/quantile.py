"""Shift and width learned as quantiles of honest residuals."""

from typing import Any, ClassVar, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level
from hatband.fitted.rows import Rows
from hatband.scales.base import Scale, given
from hatband.scales.columns import COLUMNS, check_columns, design, outputs
from hatband.scales.envelope import Envelope
from hatband.scales.learners import ForestBounds, RegressorBounds

DEFAULT_LEVEL = 0.9


class QuantileScale(Scale):
    """Shift (u + l) / 2 and width (u - l) / 2 from quantiles l, u of the signed honest residual given what is known.

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
    learners_ : list
        The fitted quantile regressors, one learner for each output.
    envelopes_ : list
        Floor, ceiling and reach of the training widths, one for each output.

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

    needs_residuals: ClassVar[bool] = True

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

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Learn from honest training rows and their residuals (n, q)."""
        rows, residuals = given(rows, residuals, type(self).__name__)
        check_columns(self.columns)
        self.learners_, self.envelopes_ = [], []
        for one, residual in zip(outputs(rows, residuals.shape[1]), residuals.T, strict=True):
            X = design(one, self.columns)
            learner = self._learner().fit(X, residual, sample_weight)
            low, high = learner.bounds(X)
            self.learners_.append(learner)
            self.envelopes_.append(Envelope.of(one, (high - low) / 2, residual))
        return self

    def predict(self, rows: Rows) -> tuple[Array, Array]:
        """Return shift and width, both (m, q)."""
        shifts, widths = [], []
        for one, learner, envelope in zip(
            outputs(rows, len(self.learners_)), self.learners_, self.envelopes_, strict=True
        ):
            low, high = learner.bounds(design(one, self.columns))
            shifts.append((low + high) / 2)
            widths.append(envelope.widths(one, (high - low) / 2, self.growth))
        return np.stack(shifts, axis=1), np.stack(widths, axis=1)

    def _learner(self) -> ForestBounds | RegressorBounds:
        (level, *_), _ = check_confidence_level(DEFAULT_LEVEL if self.level is None else self.level)
        if self.regressor is None:
            return ForestBounds(float(level), self.n_trees, self.random_state)
        return RegressorBounds(float(level), self.regressor)
