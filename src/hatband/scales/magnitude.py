"""Width learned as the size of honest residuals."""

from typing import Any, ClassVar, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_widths
from hatband.fitted.rows import Rows
from hatband.scales.base import Scale, given
from hatband.scales.columns import COLUMNS, check_columns, design, outputs
from hatband.scales.envelope import Envelope, smallest_width
from hatband.scales.learners import fit_regressor, magnitude_regressor


class MagnitudeScale(Scale):
    """Width E[|residual| given leverage, prediction and inputs], learned from honest training residuals.

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
    regressors_ : list of regressors
        One for each output.
    envelopes_ : list
        Floor, ceiling and reach of the training widths, one for each output.

    Raises
    ------
    ValueError
        If columns names none or an unknown one, or the regressor predicts a magnitude that is not positive and finite.

    Notes
    -----
    Widths never fall below 1e-3 of the median |residual|. Cost: one fit per output. Papadopoulos and Haralambous
    (2011) and Lei et al. (2018), section 5.2, with honest residuals in place of those of the fit.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import MagnitudeScale, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=MagnitudeScale(), random_state=0).fit(X, y)
    >>> model.predict_interval(X)[1].shape
    (442, 2)
    """

    needs_residuals: ClassVar[bool] = True

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

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Learn from honest training rows and their residuals (n, q)."""
        rows, residuals = given(rows, residuals, type(self).__name__)
        check_columns(self.columns)
        regressor = magnitude_regressor(self.random_state) if self.regressor is None else self.regressor
        self.regressors_, self.envelopes_ = [], []
        for one, residual in zip(outputs(rows, residuals.shape[1]), residuals.T, strict=True):
            X = design(one, self.columns)
            target = np.maximum(np.abs(residual), smallest_width(residual))
            learned = fit_regressor(regressor, X, target, sample_weight)
            self.regressors_.append(learned)
            self.envelopes_.append(Envelope.of(one, self._magnitude(learned, X), residual))
        return self

    def predict(self, rows: Rows) -> tuple[float, Array]:
        """Return shift 0 and width (m, q)."""
        widths = [
            envelope.widths(one, self._magnitude(regressor, design(one, self.columns)), self.growth)
            for one, regressor, envelope in zip(
                outputs(rows, len(self.regressors_)), self.regressors_, self.envelopes_, strict=True
            )
        ]
        return 0.0, np.stack(widths, axis=1)

    def _magnitude(self, regressor: Any, X: Array) -> Array:
        """Predict (m,); what is not positive is refused, not hidden by the floor."""
        predicted = regressor.predict(X)
        return check_widths(predicted, lambda: np.zeros(len(X), dtype=bool), len(X), type(regressor).__name__)[:, 0]
