"""Jackknife+ from one factorisation: every row trains, every row calibrates, and there are no refits."""

from typing import Any, ClassVar, Literal

from hatband.checks import check_two_rows
from hatband.conformal.exact_smoother import fit_smoother
from hatband.conformal.held_out.base import HeldOutRegressor
from hatband.conformal.held_out.closed_form import LeaveOneOut
from hatband.fitted.rows import TrainingData
from hatband.scales.named import as_scale


class JackknifePlusRegressor(HeldOutRegressor):
    """Intervals from all leave-one-out models mu_-i(x) -+ R_i (1 + h_-i(x))^1/2, from one factorisation.

    No rows are set aside for calibration and none is refitted for: with residuals e_i and cross-leverage h(x, x_i) of
    the one fit, mu_-i(x) = mu(x) - h(x, x_i) e_i / (1 - h_ii) exactly. For models that are linear in y: least squares,
    ridge, kernel ridge, Gaussian processes with fixed kernel, and these behind fixed features (Nystroem, random
    features, splines) in a Pipeline.

    Parameters
    ----------
    estimator : regressor, default=Ridge()
        A linear smoother of y, whose penalty, kernel and features do not depend on y.
    method : {"plus", "minmax"}, default="plus"
        "plus": quantiles of mu_-i(x) -+ R_i w_-i(x), close to the level in practice. "minmax": the extremes of the
        leave-one-out predictions, wider, never below the level.
    geometry : "auto" or Geometry, default="auto"
        "auto" reads features or kernel, ridge and intercept from the fitted estimator; a Geometry must describe it.
    scale : str, Scale or callable(rows) -> width, default="leverage"
        A function of a row's leverage alone: "leverage", "constant", `LeverageScale` with your own power.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval must hold.
    allow_tuned : bool, default=False
        Accept estimators that tune hyperparameters on the rows they are fitted to (RidgeCV, searches) and scales that
        are fitted to all residuals: the guarantee is lost, and a warning says so.
    block_size : int or None, default=None
        New rows worked on at once; None takes as many as make a block of 2^18 numbers.

    Attributes
    ----------
    estimator_ : fitted estimator
        Fitted to all rows.
    held_out_ : LeaveOneOut
        The n leave-one-out models: residuals, leverages, and the training rows in the coordinates of the factor, n x d
        numbers; for a kernel its rows and two n x n arrays.
    scores_ : array (n, q)
        Signed leave-one-out residuals over the width that the model without the row gives it: with the leverage scale
        the studentised residuals e_i / (1 - h_ii)^1/2.
    space_, scale_ : Space, fitted scale

    Raises
    ------
    ValueError
        In fit, if the model is not a linear smoother, its predictions differ from those of its geometry, it is tuned
        and `allow_tuned` is False, or the scale looks at more than leverage.

    Notes
    -----
    Guarantee for exchangeable rows, with penalty and features fixed in advance: P(y in interval) >= 1 - 2 (1 - level)
    for "plus" with any scale, close to the level where leave-one-out models are stable; >= level for "minmax".
    Barber, Candes, Ramdas and Tibshirani (2021), *Predictive inference with the jackknife+*, theorems 1 and 2. None
    holds for hyperparameters or features that were learned from the same y.

    Transformers in a Pipeline are held as they were fitted to all rows; penalties are held in the sum convention
    |y - Phi b|^2 + ridge |b|^2. Transformers refitted without each row, on 100 rows, move a bound by 0.01 % of a width
    (StandardScaler), 0.07 % (SplineTransformer) and 2 % (PCA, whose coverage goes from 0.899 to 0.913; the other two
    keep theirs): measured in benchmarks/jackknife.py. A weight of 2 is not two rows: both copies leave together.

    Cost: the factorisation n d^2, then per new row k d for its cross-leverage with the k training rows that can hold
    the rank wanted (a few in a hundred of tall data, all n at worst), O(k) for two selections, and memory a block times
    n. "minmax" looks at all n. Kernels: 2/3 n^3 and n^2 per new row, at most 20,000 rows.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import JackknifePlusRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> y_pred, interval = JackknifePlusRegressor().fit(X, y).predict_interval(X[:3], [0.8, 0.95])
    >>> y_pred.shape, interval.shape
    ((3,), (3, 2, 2))
    """

    _methods: ClassVar[tuple[str, ...]] = ("plus", "minmax")

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: Literal["plus", "minmax"] = "plus",
        geometry: Any = "auto",
        scale: Any = "leverage",
        confidence_level: Any = 0.9,
        allow_tuned: bool = False,
        block_size: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.geometry = geometry
        self.scale = scale
        self.confidence_level = confidence_level
        self.allow_tuned = allow_tuned
        self.block_size = block_size

    def _hold_out(self, data: TrainingData) -> LeaveOneOut:
        name = type(self).__name__
        check_two_rows(data.y, name)
        scale = as_scale(self.scale)
        _check_pointwise(scale, self.allow_tuned, name)
        smoother, training, weight = fit_smoother(self, self._regressor(), data)
        return LeaveOneOut.of(smoother, training, data.y, weight, scale=scale, block_size=self.block_size)


def _check_pointwise(scale: Any, allow_tuned: bool, owner: str) -> None:
    """Raise unless a scale is a function of leverage alone that is not fitted to residuals."""
    name = type(scale).__name__
    if not getattr(scale, "pointwise", False):
        raise ValueError(
            f"{owner} needs a scale that is a function of a row's leverage alone, because it refits no models; "
            f"{name} does not declare pointwise = True. Use scale='leverage' or 'constant', or "
            "CrossConformalRegressor, which fits the scale in every fold; or declare it in a class of yours whose "
            "predict uses leverage only."
        )
    if getattr(scale, "needs_residuals", False) and not allow_tuned:
        raise ValueError(
            f"{name} is fitted to the residuals of all rows, and {owner} would have to fit it again without each row. "
            "Use scale='leverage', CrossConformalRegressor, or pass allow_tuned=True and lose the guarantee."
        )
