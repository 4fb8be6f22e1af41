"""Jackknife+ for convex losses by one Newton step per row: approximate leave-one-out from one factorisation."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy import sparse

from hatband.arrays.typing import Array
from hatband.checks import check_single_output, check_two_rows
from hatband.conformal.held_out.base import HeldOutRegressor
from hatband.conformal.held_out.closed_form import OfSmoother
from hatband.conformal.held_out.convex import ConvexFit, convex_fit
from hatband.conformal.held_out.plus import Reach
from hatband.fitted.cross_leverage import row_blocks
from hatband.fitted.rows import TrainingData, fit_estimator, predict_features
from hatband.fitted.smoother import Smoother
from hatband.formulas.leave_one_out import loo_predictions
from hatband.geometry import FeatureGeometry, Features
from hatband.geometry.base import as_numbers, selected
from hatband.geometry.composite import Preprocessed, transformed
from hatband.geometry.model import steps_of
from hatband.scales import ConstantScale


@dataclass(frozen=True, eq=False)
class NewtonLeaveOneOut(OfSmoother):
    """n models one Newton step away: eta_-i(x) = eta(x) - h(x, x_i) r_i, r_i = -w_i l'_i / (1 - w_i l''_i h_i).

    Parameters
    ----------
    smoother : Smoother
        Of eta: weights w l'', ridge P'', residuals -w l'. Prepared.
    steps : array (n,)
        r_i.
    link : {"identity", "log"}
    scores : array (n, 1)
        y_i - mu_-i(x_i).
    kept_share : float or None
        Share of rows that can be left out without a change of the active set, for which the step is exact; None where
        the loss has no pieces.
    block_size : int or None
    """

    smoother: Smoother
    steps: Array
    link: Literal["identity", "log"]
    scores: Array
    kept_share: float | None
    block_size: int | None = None
    scale: ConstantScale = field(default_factory=ConstantScale)

    @classmethod
    def of(cls, estimator: Any, X: Any, y: Array, weights: Array | None, block_size: int | None) -> Self:
        """Take the Newton steps of an estimator that was fitted to rows X with targets y (n, 1).

        Raises
        ------
        SmootherMismatch
            If the predictions are not at the minimum of loss and penalty: eta = (Phi'D Phi + P'')^-1 Phi'(D eta - w l')
            less the pull of an L1 penalty, D = diag(w l'').
        """
        steps = steps_of(estimator)
        values = transformed(steps.transformers, X)
        fit = convex_fit(steps.model, as_numbers(values), y[:, 0], np.ones(len(y)) if weights is None else weights)
        inner = FeatureGeometry(fit.penalty, fit.fit_intercept, columns=fit.columns, row_weights=fit.curvature)
        space = Preprocessed(steps.transformers, inner).fit(X)
        training = space.features(X)
        eta = _linear(predict_features(estimator, space, training, 1), fit.link)
        smoother = Smoother.checked(
            estimator,
            space,
            training,
            predicted=eta,
            smoothed=_smoothed(fit, space, training, eta),
            residuals=-fit.slope[:, None],
            noise=_noise(fit),
            weights=fit.curvature,
        ).prepared(training)
        left = smoother.loo_residuals[:, 0]
        scores = y - _mean(eta - smoother.leverage * left[:, None], fit.link)
        share = _kept_share(fit, smoother, training, left)
        return cls(smoother, left, fit.link, scores, share, block_size)

    def around(self, features: Features, spread: Array) -> Iterator[Reach]:
        """Yield mu_-i(x) -+ spread_i, in blocks of new rows."""
        for block in self.smoother.crossed(features, self.block_size):
            eta = _linear(block.prediction[:, 0], self.link)
            center = _mean(loo_predictions(eta, block.cross, self.steps), self.link)
            yield Reach(block.index, 0, center - spread[:, 0], center + spread[:, 0])


class ApproximateJackknifePlusRegressor(HeldOutRegressor):
    """APPROXIMATE jackknife+ mu_-i(x) -+ R_i for convex losses: mu_-i is one Newton step from the fit to all rows.

    For HuberRegressor, Lasso and ElasticNet, PoissonRegressor, GammaRegressor, TweedieRegressor, alone or behind
    transformers in a Pipeline; more by
    ``hatband.conformal.held_out.convex.convex_fit.register``. For least squares and ridge the step is exact: use
    `JackknifePlusRegressor`.

    Parameters
    ----------
    estimator : regressor, default=Ridge()
        A convex model with one output.
    method : {"plus", "minmax"}, default="plus"
        As in `JackknifePlusRegressor`.
    confidence_level : float or list of float, default=0.9
        Probability with which an interval must hold.
    block_size : int or None, default=None
        New rows worked on at once; None takes as many as make a block of 2^18 numbers.

    Attributes
    ----------
    estimator_ : fitted estimator
        Fitted to all rows.
    kept_share_ : float or None
        For Lasso and ElasticNet the share of rows that can be left out without a change of the active set, for
        HuberRegressor without a change of the set of outliers: for these the step is exact (for Huber given its scale).
        None for smooth losses.
    held_out_ : NewtonLeaveOneOut
    scores_ : array (n, 1)
        Residuals y_i - mu_-i(x_i).
    space_ : Space
        Of the generalised leverage: weights w l'', ridge P''.

    Raises
    ------
    ValueError
        In fit, for a model whose loss is not known or whose fit is not at its minimum, or more than one output.

    Notes
    -----
    The jackknife+ guarantee 1 - 2 (1 - level) is that of exact refits; this is close to it where the step is, and no
    more. Penalties are held in the sum convention. Measured distance to exact refits: benchmarks/README.md.

    eta_-i(x) = eta(x) + h(x, x_i) w_i l'_i / (1 - w_i l''_i h_i) with J = Phi'diag(w l'')Phi + P''. Rad and Maleki
    (2020), *A scalable estimate of the out-of-sample prediction error via approximate leave-one-out*, equation 9; Cong
    and Liu (2026), arXiv 2606.31915. Cost as `JackknifePlusRegressor`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Lasso
    >>> from hatband import ApproximateJackknifePlusRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = ApproximateJackknifePlusRegressor(Lasso(0.1, tol=1e-8)).fit(X, y)
    >>> bool(model.kept_share_ > 0.9)
    True
    """

    _methods: ClassVar[tuple[str, ...]] = ("plus", "minmax")
    held_out_: NewtonLeaveOneOut

    def __init__(
        self,
        estimator: Any = None,
        *,
        method: Literal["plus", "minmax"] = "plus",
        confidence_level: Any = 0.9,
        block_size: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.confidence_level = confidence_level
        self.block_size = block_size

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags

    @property
    def kept_share_(self) -> float | None:
        """Share of rows that can be left out without a change of the active set; None for smooth losses."""
        return self.held_out_.kept_share

    def _hold_out(self, data: TrainingData) -> NewtonLeaveOneOut:
        check_two_rows(data.y, type(self).__name__)
        check_single_output(data.y, type(self).__name__)
        # Models of one output warn about a column; (n, 1) is the same to them.
        estimator, weight = fit_estimator(self, self._regressor(), replace(data, values=data.values.ravel()))
        return NewtonLeaveOneOut.of(estimator, data.X, data.y, weight, self.block_size)


def _smoothed(fit: ConvexFit, space: Any, training: Features, eta: Array) -> Array:
    """Return what the linear predictor (n, 1) must be at the minimum, by one weighted least squares step from it."""
    values = selected(training.values, space.space.columns)
    smoothed = space.factor.smooth(values, fit.curvature[:, None] * eta - fit.slope[:, None])
    if np.any(fit.pull):
        moved = space.factor.solve(fit.pull[:, None])
        smoothed = smoothed - (values @ moved - space.factor.mean @ moved)
    return smoothed


def _noise(fit: ConvexFit) -> Array:
    """Return the root mean square (1,) of slope / curvature: the size of residuals on the scale of the predictor."""
    curved = fit.curvature > 0
    return np.sqrt(np.mean(np.square(fit.slope[curved] / fit.curvature[curved]), keepdims=True))


def _kept_share(fit: ConvexFit, smoother: Smoother, training: Features, left: Array) -> float | None:
    if fit.pieces is None:
        return None
    kept, space = 0, smoother.space
    for part in row_blocks(len(left), len(left)):
        rows = training.take(part)
        kept += int(fit.pieces.stay(part, left[part], smoother.cross(rows), _directions(space, rows)).sum())
    return kept / len(left)


def _directions(space: Any, rows: Features) -> Array:
    """Return A^-1 (phi_i - mean) (k, b), the direction of the change of the coefficients without row i."""
    return space.factor.solve((_dense(selected(rows.values, space.space.columns)) - space.factor.mean).T)


def _dense(values: Any) -> Array:
    return values.toarray() if sparse.issparse(values) else values


def _linear(prediction: Array, link: Literal["identity", "log"]) -> Array:
    return np.log(prediction) if link == "log" else prediction


def _mean(eta: Array, link: Literal["identity", "log"]) -> Array:
    return np.exp(eta) if link == "log" else eta
