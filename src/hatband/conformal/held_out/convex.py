"""Convex fits: slope and curvature of loss and penalty at the minimum, from which one Newton step leaves a row out.

The fit minimises sum_i w_i l(y_i, eta_i) + P(b), eta_i = phi_i'b + intercept. Without row i, to second order, eta moves
by h(x, x_i) w_i l'_i / (1 - w_i l''_i h_i), where h is the leverage with weights w l'' and ridge P''.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    LinearRegression,
    PoissonRegressor,
    Ridge,
    TweedieRegressor,
)

from hatband.arrays.typing import Array


@dataclass(frozen=True, eq=False)
class ConvexFit:
    """The parts of a fitted convex model with one output that a Newton step needs.

    Parameters
    ----------
    slope : array (n,)
        w_i l'(y_i, eta_i), the derivative of the loss in the linear predictor.
    curvature : array (n,)
        w_i l''(y_i, eta_i) >= 0.
    penalty : float or array (k,)
        Second derivative of the penalty, of each active coefficient where they differ.
    fit_intercept : bool
        Whether there is an intercept, which is not penalised.
    link : {"identity", "log"}
        The prediction is eta, or exp(eta).
    columns : array of int, or None
        Active features; None for all.
    pieces : L1Pieces or HuberPieces, or None
        For losses and penalties made of quadratic pieces: how to see that a fit stays on its piece.
    pull : float or array (k,)
        P' - P'' b, the gradient of what in the penalty is not quadratic: l1 sign(b) of each active coefficient.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.conformal.held_out.convex import ConvexFit
    >>> residuals = np.array([0.5, -0.5])
    >>> fit = ConvexFit(slope=-residuals, curvature=np.ones(2), penalty=1.0, fit_intercept=True)  # ridge regression
    """

    slope: Array
    curvature: Array
    penalty: Any
    fit_intercept: bool
    link: Literal["identity", "log"] = "identity"
    columns: Array | None = None
    pieces: Any = None
    pull: Any = 0.0


@dataclass(frozen=True, eq=False)
class L1Pieces:
    """The active set of an L1 penalty: signs of the coefficients, and |correlation| <= l1 of all other columns.

    Parameters
    ----------
    features : array or CSR (n, d)
    coef : array (d,)
    residuals, weights : array (n,)
    l1 : float
        In the sum convention.
    """

    features: Any
    coef: Array
    residuals: Array
    weights: Array
    l1: float

    def stay(self, part: slice, left: Array, cross: Array, directions: Array) -> Array:
        """Return which rows of `part` can be left out without a change of the active set (b,).

        left : leave-one-out residuals (b,); cross : h(x_i, x_l) (b, n); directions : A^-1 (phi_i - mean) (k, b).
        """
        active = self.coef != 0
        moved = self.coef[active, None] - directions * left
        same_signs = (np.sign(moved) == np.sign(self.coef[active, None])).all(axis=0)
        others = self.features[:, np.flatnonzero(~active)]
        residuals = (self.residuals + cross * left[:, None]) * self.weights
        rows = np.arange(part.start, part.stop)
        residuals[np.arange(len(rows)), rows] = 0.0
        correlation = np.abs(residuals @ others)
        return same_signs & (correlation <= self.l1 * (1 + 1e-9)).all(axis=1)


@dataclass(frozen=True, eq=False)
class HuberPieces:
    """The rows whose residual is not clipped.

    Parameters
    ----------
    residuals : array (n,)
    limit : float
        epsilon * scale.
    """

    residuals: Array
    limit: float

    def stay(self, part: slice, left: Array, cross: Array, directions: Array) -> Array:
        """Return which rows of `part` can be left out without another row crossing the limit (b,)."""
        inside = np.abs(self.residuals) <= self.limit
        moved = np.abs(self.residuals + cross * left[:, None]) <= self.limit
        same = moved == inside
        rows = np.arange(part.start, part.stop)
        same[np.arange(len(rows)), rows] = True
        return same.all(axis=1)


@functools.singledispatch
def convex_fit(model: Any, features: Any, y: Array, weights: Array) -> ConvexFit:
    """Return slope w l'(y, eta), curvature w l''(y, eta) and penalty P'' of a fitted convex model at its minimum.

    Known: LinearRegression, Ridge, ElasticNet, Lasso, HuberRegressor, PoissonRegressor, GammaRegressor,
    TweedieRegressor. ``convex_fit.register(Model, function)`` adds one's own.

    Parameters
    ----------
    model : fitted regressor
        The last step, without transformers.
    features : array or CSR matrix (n, d)
        What it was fitted to.
    y, weights : array (n,)
        Targets, and weights of the rows, 1 without any.

    Returns
    -------
    ConvexFit

    Raises
    ------
    ValueError
        For a model that is not registered.

    Notes
    -----
    The convention is sum_i w_i l(y_i, eta_i) + P(b): what a model averages over rows is multiplied by their total
    weight. Cost: one prediction of the rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import PoissonRegressor
    >>> from hatband.conformal.held_out.convex import convex_fit
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 2.0, 4.0])
    >>> fit = convex_fit(PoissonRegressor().fit(X, y), X, y, np.ones(3))
    >>> bool(np.allclose(fit.curvature, fit.slope + y))  # l' = exp(eta) - y, l'' = exp(eta)
    True
    """
    raise ValueError(
        "approximate leave-one-out needs the loss and penalty of a convex model: ElasticNet, Lasso, HuberRegressor, "
        f"PoissonRegressor, GammaRegressor, TweedieRegressor; got {type(model).__name__}. Register yours with "
        "hatband.conformal.held_out.convex.convex_fit.register, or use CrossConformalRegressor."
    )


@convex_fit.register(LinearRegression)
@convex_fit.register(Ridge)
def _squared(model: Any, features: Any, y: Array, weights: Array) -> ConvexFit:
    """Half the squared error: the Newton step is exact."""
    _check_not_positive(model)
    penalty = 0.0 if isinstance(model, LinearRegression) else float(np.ravel(model.alpha)[0])
    return ConvexFit(weights * (_linear(model, features) - y), weights, penalty, model.fit_intercept)


@convex_fit.register(ElasticNet)
def _elastic_net(model: ElasticNet, features: Any, y: Array, weights: Array) -> ConvexFit:
    """Half the squared error, l1 |b|_1 + ridge |b|^2 / 2 with both times sum(w): exact while the active set stays."""
    _check_not_positive(model)
    coef, residuals, total = np.ravel(model.coef_), y - _linear(model, features), float(weights.sum())
    l1 = total * model.alpha * model.l1_ratio
    return ConvexFit(
        slope=-weights * residuals,
        curvature=weights,
        penalty=total * model.alpha * (1 - model.l1_ratio),
        fit_intercept=model.fit_intercept,
        columns=np.flatnonzero(coef),
        pieces=L1Pieces(features, coef, residuals, weights, l1),
        pull=l1 * np.sign(coef[coef != 0]),
    )


@convex_fit.register
def _huber(model: HuberRegressor, features: Any, y: Array, weights: Array) -> ConvexFit:
    """Half the squared residual, clipped at epsilon * scale, ridge alpha * scale, the scale held as it was fitted."""
    residuals, limit = y - _linear(model, features), float(model.epsilon * model.scale_)
    inside = np.abs(residuals) <= limit
    return ConvexFit(
        slope=-weights * np.clip(residuals, -limit, limit),
        curvature=weights * inside,
        penalty=float(model.alpha * model.scale_),
        fit_intercept=model.fit_intercept,
        pieces=HuberPieces(residuals, limit),
    )


@convex_fit.register(PoissonRegressor)
@convex_fit.register(GammaRegressor)
@convex_fit.register(TweedieRegressor)
def _generalised_linear(model: Any, features: Any, y: Array, weights: Array) -> ConvexFit:
    """Half the unit deviance and sum(w) alpha |b|^2 / 2. Jorgensen (1987); ridge in the sum convention."""
    eta = _linear(model, features)
    match model:
        case PoissonRegressor():
            power, log = 1.0, True
        case GammaRegressor():
            power, log = 2.0, True
        case _:
            power = float(model.power)
            log = model.link == "log" or (model.link == "auto" and power > 0)
    slope, curvature = _half_deviance(eta, y, power, log)
    return ConvexFit(
        slope=weights * slope,
        # Away from the log link the deviance is convex on part of its range only.
        curvature=weights * np.maximum(curvature, 0.0),
        penalty=float(weights.sum() * model.alpha),
        fit_intercept=model.fit_intercept,
        link="log" if log else "identity",
    )


def _half_deviance(eta: Array, y: Array, power: float, log: bool) -> tuple[Array, Array]:
    """Return first and second derivative in eta of half the Tweedie deviance: d/dmu = mu^-p (mu - y)."""
    if log:
        grow, shrink = np.exp((2 - power) * eta), y * np.exp((1 - power) * eta)
        return grow - shrink, (2 - power) * grow - (1 - power) * shrink
    slope = eta**-power * (eta - y)
    return slope, (1 - power) * eta**-power + power * y * eta ** (-power - 1)


def _linear(model: Any, features: Any) -> Array:
    """Return the linear predictor (n,)."""
    return np.asarray(features @ np.ravel(model.coef_) + np.ravel(model.intercept_)[0]).ravel()


def _check_not_positive(model: Any) -> None:
    """Raise for a linear model whose coefficients are bounded: a Newton step ignores the bounds."""
    if model.positive:
        raise ValueError(
            f"approximate leave-one-out of {type(model).__name__} needs positive=False; got positive=True. Use "
            "CrossConformalRegressor."
        )
