"""Full conformal prediction around a trained network, by its linear expansion, without held-out rows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.linear_model import Ridge
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_in, check_single_output, check_target
from hatband.conformal import FullConformalRegressor
from hatband.conformal.band import Band, Ends
from hatband.conformal.calibration.calibration import check_alike
from hatband.conformal.distribution import PredictiveDistribution, RowwiseDistribution
from hatband.conformal.regressor import IntervalRegressor
from hatband.formulas.ridge_choice import chosen_ridge, whole_network_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.geometry import FeatureGeometry
from hatband.linalg import KernelSpectrum
from hatband.nn.measure.tangent import Expansion, TangentFeatures


class LinearisedConformalRegressor(IntervalRegressor):
    """Full conformal intervals of f(x) + J(x)(w - w_0) + b, ridge |w|^2: a trained network, linear in its parameters.

    The network is trained once, on the same rows; its expansion is refitted with every candidate y, in closed form.

    Parameters
    ----------
    module : nn.Module
        A network with one output, trained on the rows passed to `fit`; it is never changed.
    method : {"studentised", "absolute", "deleted"}, default="studentised"
        The score, as in `FullConformalRegressor`.
    ridge : float, list of float, "evidence", "loo", "gcv" or "auto", default="evidence"
        In the sum convention, on all parameters. It changes predictions too, so by default the rows choose it;
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

    _trained_by: ClassVar[tuple[str, str]] = ("conformal_", "fit")

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
        self.n_outputs_, self.single_target_ = 1, single
        return self

    @property
    def scores_(self) -> Array:
        """Signed studentised residuals (n, 1) of the training rows."""
        return self.conformal_.scores_

    def predictive_distribution(self, X: Any) -> PredictiveDistribution:
        """Return the distribution of each row; its atoms are those of a refit of the expansion with the new row.

        Parameters
        ----------
        X : array (m, k)

        Returns
        -------
        PredictiveDistribution
            See `FullConformalRegressor.predictive_distribution`.
        """
        at, offset = self._expanded(X, "predictive_distribution")
        law: Any = self.conformal_.predictive_distribution(at.gradient)

        def moved() -> Iterator[tuple[slice, int, Array]]:
            for part, j, atoms in law.blocks():
                yield part, j, atoms + offset[part, None]

        return RowwiseDistribution(
            moved, n_rows=law.n_rows, n_outputs=1, n_atoms=law.n_atoms, single_target=self.single_target_
        )

    def _predict(self, X: Any) -> Array:
        at, offset = self._expanded(X, "predict")
        return self.conformal_.predict(at.gradient) + offset

    def _band(self, X: Any) -> Band:
        at, offset = self._expanded(X, "predict")
        band = self.conformal_._band(at.gradient)
        return replace(band, prediction=band.prediction + offset[:, None], center=band.center + offset[:, None])

    def _intervals(self, X: Any, levels: list[Any], groups: Any, likelihood_ratio: Any) -> tuple[Array, list[Ends]]:
        check_alike(self, groups, likelihood_ratio)
        at, offset = self._expanded(X, "predict_interval")
        center, interval = self.conformal_.predict_interval(at.gradient, levels)
        low, high = interval.swapaxes(0, 1) + offset[:, None]
        return center + offset, [(low[:, [k]], high[:, [k]]) for k in range(len(levels))]

    def _leverage(self, X: Any) -> Array:
        return self.conformal_.leverage(self._expanded(X, "leverage")[0].gradient)

    def _checked(self, X: Any) -> Any:
        return X

    def _expanded(self, X: Any, caller: str) -> tuple[Expansion, Array]:
        """Return the expansion at rows, and its constant term f(x) - J(x) w_0."""
        self._check_trained(caller)
        at = self.features_.expand(X)
        return at, _offset(at, self.weights_)


def _offset(at: Expansion, weights: Array) -> Array:
    """Return f(x) - J(x) w_0, the constant term of the expansion in w."""
    return np.asarray(at.value - at.gradient @ weights)
