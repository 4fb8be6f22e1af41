"""Full conformal prediction around a trained network, by its linear expansion: no refits, no rows held out."""

from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_in, check_single_output, check_target
from hatband.conformal import FullConformalRegressor
from hatband.formulas.ridge_choice import chosen_ridge, whole_network_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.geometry import FeatureGeometry
from hatband.linalg import KernelSpectrum
from hatband.nn.measure.tangent import Expansion, TangentFeatures


class LinearisedConformalRegressor(BaseEstimator):
    """Full conformal intervals of f(x) + J(x)(w - w_0) + b, ridge |w|^2: a trained network, linear in its parameters.

    The network is trained once, on the same rows; every candidate y refits its linear expansion, in closed form.

    Parameters
    ----------
    module : nn.Module
        A network with one output, trained on the rows that `fit` gets; never changed.
    method : {"studentised", "absolute", "deleted"}, default="studentised"
        The score, as in `FullConformalRegressor`.
    ridge : float, list of float, "evidence", "loo", "gcv" or "auto", default="evidence"
        In the sum convention, on all parameters. It shapes predictions as well as leverages, so the rows are asked;
        "auto" is 1e-2 tr(J_c'J_c) / min(n, p), as in `TangentGeometry`.
    confidence_level : float or list of float, default=0.9

    Attributes
    ----------
    ridge_ : float
    conformal_ : FullConformalRegressor
        Of the expansion.

    Raises
    ------
    ValueError
        If the module has more than one output, or y is not finite or has more than one column.

    Notes
    -----
    An approximation: J, w_0 and the ridge were learned from the same y, so the guarantee of full conformal prediction
    is not exact. It is the "ACP-GN" of Tailor, Correia, Nalisnick and Louizos (2025), "Approximating full conformal
    prediction for neural network regression with Gauss-Newton influence", with the expansion refitted to its own
    optimum first, so that leverages and residuals belong to the same model. Predictions are those of the refitted
    expansion. Cost: a backward pass per row, one eigendecomposition n^3 and products n^2 p; 8 n p bytes for p
    parameters. For networks with up to some 10,000 parameters and some 2,000 rows.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LinearisedConformalRegressor
    >>> _ = torch.manual_seed(0)
    >>> X = torch.randn(100, 2)
    >>> y = X.sum(1) + 0.1 * torch.randn(100)
    >>> net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))  # trained by you
    >>> y_pred, interval = LinearisedConformalRegressor(net).fit(X, y).predict_interval(X[:3])
    >>> interval.shape
    (3, 2)
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        method: Literal["studentised", "absolute", "deleted"] = "studentised",
        ridge: Any = "evidence",
        confidence_level: Any = 0.9,
    ) -> None:
        self.module = module
        self.method = method
        self.ridge = ridge
        self.confidence_level = confidence_level

    def fit(self, X: Any, y: Any) -> Self:
        """Expand the network at the rows that it was trained on.

        Parameters
        ----------
        X : array (n, k)
        y : array (n,) or (n, 1)

        Returns
        -------
        self
        """
        target, single = check_target(y)
        check_single_output(target, type(self).__name__)
        check_confidence_level(self.confidence_level)
        check_in(self.method, ("studentised", "absolute", "deleted"), "method")
        features = TangentFeatures(self.module)
        at = features.expand(X)
        weights = features.weights
        gradients = at.gradient
        wanted = target[:, 0] - _offset(at, weights)
        centred = gradients - gradients.mean(axis=0)
        ridge = chosen_ridge(
            self.ridge,
            auto=lambda: whole_network_ridge(float(np.square(centred).sum()), *centred.shape),
            spectrum=lambda: RidgeSpectrum.of_kernel(KernelSpectrum.of(centred @ centred.T, None, True), wanted),
        )
        # Tuned on these rows, as the gradients are: the geometry says "exact" for the expansion as it is now given.
        conformal = FullConformalRegressor(
            Ridge(ridge), method=self.method, geometry=FeatureGeometry(ridge, True, "exact")
        ).fit(gradients, wanted)
        self.features_, self.weights_, self.ridge_, self.conformal_ = features, weights, ridge, conformal
        self.single_target_ = single
        return self

    def predict(self, X: Any) -> Array:
        """Return the prediction of the refitted expansion, (m,) or (m, 1) as y came."""
        at = self._expanded(X, "predict")
        return self._shaped(self.conformal_.predict(at.gradient) + _offset(at, self.weights_))

    def predict_interval(self, X: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict, with the interval of all candidates that conform: for other methods the hull of their set.

        Parameters
        ----------
        X : array (m, k)
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.

        Returns
        -------
        prediction : array (m,) or (m, 1)
        interval : array (m, 2), (m, 1, 2), (m, 2, L) or (m, 1, 2, L)
        """
        at = self._expanded(X, "predict_interval")
        level = self.confidence_level if confidence_level is None else confidence_level
        centre, interval = self.conformal_.predict_interval(at.gradient, level)
        shift = _offset(at, self.weights_)
        moved = interval + shift.reshape(-1, *[1] * (interval.ndim - 1))
        return self._shaped(centre + shift), moved if self.single_target_ else moved[:, None]

    def leverage(self, X: Any) -> Array:
        """Return h(x) = 1/n + J_c(x) (J_c'J_c + ridge I)^-1 J_c(x)', (m,)."""
        return self.conformal_.leverage(self._expanded(X, "leverage").gradient)

    def _expanded(self, X: Any, caller: str) -> Expansion:
        if "conformal_" not in vars(self):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit before {caller}.")
        return self.features_.expand(X)

    def _shaped(self, values: Array) -> Array:
        return values if self.single_target_ else values[:, None]


def _offset(at: Expansion, weights: Array) -> Array:
    """Return f(x) - J(x) w_0: what the expansion adds to a function that is linear in w."""
    return np.asarray(at.value - at.gradient @ weights)
