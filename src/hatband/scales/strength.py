"""Width as a function of leverage whose strength is estimated."""

from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.optimize import minimize_scalar

from hatband.arrays.typing import Array
from hatband.checks import check_in
from hatband.fitted.rows import Rows
from hatband.scales.base import Scale, check_training_rows, outputs
from hatband.scales.learned import reach

# c = 1 under equal noise, 2 under noise that grows like 1 + h: the prior lies between, a factor of two either way.
PRIOR_MEAN, PRIOR_SPREAD = np.log1p(1.5), 0.7
LARGEST = np.log1p(1e4)


class StrengthScale(Scale):
    """Width (1 + c h(x))^1/2, with c >= 0 by penalised maximum likelihood on squared held-out residuals.

    Parameters
    ----------
    form : {"posterior", "sampling"}, default="posterior"
        Which leverage h is. For rows beyond the largest training leverage "sampling" uses the posterior form too: the
        sampling form of a kernel tends to 0 there.

    Attributes
    ----------
    strength_ : array (q,)
        c of each output. 1: the noise is equal and only the model's own error grows. Above 1: the noise grows with
        leverage too. Below 1: errors grow less than this leverage.

    Raises
    ------
    ValueError
        If form is not one of the two.

    Notes
    -----
    Maximises the normal likelihood of residuals with variance sigma^2 (1 + c h), sigma free, h the leave-one-out
    leverage, with log(1 + c) normal around log 2.5 with deviation 0.7: on 100 rows c is hardly determined, on thousands
    the prior vanishes. The variance is that of Fadnavis (2026), arXiv 2602.12693, for noise variance 1 + (c - 1) h.
    Cost: n per step of a search in one dimension.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import SplitConformalRegressor, StrengthScale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=StrengthScale(), random_state=0).fit(X, y)
    >>> model.scale_.strength_.shape
    (1,)
    """

    needs_residuals: ClassVar[bool] = True

    def __init__(self, form: Literal["posterior", "sampling"] = "posterior") -> None:
        self.form = form

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Estimate c on training rows and their held-out residuals (n, q)."""
        rows, residuals, weight = check_training_rows(self, rows, residuals, sample_weight)
        check_in(self.form, ("posterior", "sampling"), "form")
        weight = np.ones(len(residuals)) if weight is None else weight
        views = list(outputs(rows, residuals.shape[1]))
        self.reach_ = np.array([reach(one.leverage) for one in views])
        self.strength_ = np.array(
            [
                _strength(self._leverage(one, limit), residual, weight)
                for one, limit, residual in zip(views, self.reach_, residuals.T, strict=True)
            ]
        )
        return self

    def predict(self, rows: Rows) -> tuple[float, Array]:
        """Return shift 0 and width (m, q)."""
        views = zip(outputs(rows, len(self.strength_)), self.reach_, strict=True)
        leverage = np.stack([self._leverage(one, limit) for one, limit in views], axis=1)
        # Strength 0 times infinite leverage is NaN: such a row has infinite width all the same.
        with np.errstate(invalid="ignore"):
            width = np.sqrt(1 + self.strength_ * leverage)
        return 0.0, np.where(np.isinf(leverage), np.inf, width)

    def _leverage(self, rows: Rows, limit: float) -> Array:
        if self.form == "posterior":
            return rows.leverage
        return np.where(rows.leverage >= limit, rows.leverage, rows.sampling_leverage)


def _strength(leverage: Array, residual: Array, weight: Array) -> float:
    """Return the c that minimises -2 log likelihood, sigma profiled out, plus the prior's penalty."""
    used = np.isfinite(leverage)
    h, weight = leverage[used], weight[used] * used.sum() / weight[used].sum()
    largest = np.abs(residual[used]).max(initial=0.0)
    if largest == 0:
        return 0.0
    square = np.square(residual[used] / largest)  # squares of residuals in extreme units would leave float64

    def deviance(log_strength: Any) -> float:
        variance = 1 + np.expm1(log_strength) * h
        fit = np.log(np.average(square / variance, weights=weight)) * len(h) + weight @ np.log(variance)
        return float(fit + ((log_strength - PRIOR_MEAN) / PRIOR_SPREAD) ** 2)

    grid = np.linspace(0, LARGEST, 100)
    best = int(np.argmin([deviance(point) for point in grid]))
    bracket = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.expm1(minimize_scalar(deviance, bounds=bracket, method="bounded").x))
