"""Laplace approximation of the last layer: predictive mean, aleatoric and epistemic variance."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import nn

from hatband.arrays.backend import EPS
from hatband.arrays.typing import Array
from hatband.checks import check_in
from hatband.conformal.regressor import shaped_like_target
from hatband.formulas.posterior import LinearPosterior, PosteriorPrediction
from hatband.nn.measure.batches import as_batches
from hatband.nn.measure.network_rows import Gathered, gathered, head_of, targets_by_noise


class LastLayerLaplace(BaseEstimator):
    """y ~ N(f(x), s v(x) + s h(x)): aleatoric and epistemic variance of a trained network, h its last-layer leverage.

    The weights of the last linear layer have a Gaussian prior of precision tau and the features are held fixed, so
    their posterior is exact: precision (Phi'W Phi + ridge I) / s, W = diag(1 / v), ridge = tau s. The bias of the layer
    has a flat prior.

    Parameters
    ----------
    module : nn.Module
        A trained network; never changed.
    layer : str, nn.Module or None, default=None
        Its last linear layer; None finds it, see `find_head`.
    noise_std : callable(inputs) -> tensor (b,), (b, 1) or (b, q), or None, default=None
        Standard deviation of the noise, such as the ``noise`` of a network with a noise head; used unchanged. None:
        constant, its size by evidence.
    ridge : float, list of float, "evidence", "loo", "gcv" or "auto", default="evidence"
        How the ridge is chosen from the training rows; "auto" is 1e-4 tr(Phi'W Phi) / d.
    mean : {"network", "posterior"}, default="network"
        What is predicted: the output of the network, or the posterior mean of its refitted last layer.

    Attributes
    ----------
    posteriors_ : list of LinearPosterior
        One for all outputs, or one for each where their noise differs.
    ridge_ : array (q,)
    scale_ : array (q,)
        s: the noise variance by evidence, 1 where `noise_std` is given.
    log_evidence_ : float
        Log density of the training targets under the model, features taken as fixed.

    Raises
    ------
    ValueError
        If no head is found, something is not finite, or noise is not positive.

    Notes
    -----
    The features were trained on the same rows, so evidence is too sure of them and s too small: variances have no
    guarantee. `LastLayerConformalRegressor` calibrates them. MacKay (1992), "A practical Bayesian framework for
    backpropagation networks"; with noise 1 and prior 1 the epistemic variance is the full last-layer functional
    variance of laplace-torch (Daxberger et al. 2021) but for the prior on the bias. Cost: one forward pass, one
    singular value decomposition, O(n d^2); 8 n d bytes.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LastLayerLaplace
    >>> _ = torch.manual_seed(0)
    >>> X = torch.randn(300, 3)
    >>> y = X.sum(1) + 0.1 * torch.randn(300)
    >>> net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))  # trained by you
    >>> law = LastLayerLaplace(net, mean="posterior").fit(X, y).predict(X[:5])
    >>> law.mean.shape, bool((law.epistemic < law.aleatoric).all())
    ((5,), True)
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str | nn.Module | None = None,
        *,
        noise_std: Callable[[Any], Any] | None = None,
        ridge: Any = "evidence",
        mean: Literal["network", "posterior"] = "network",
    ) -> None:
        self.module = module
        self.layer = layer
        self.noise_std = noise_std
        self.ridge = ridge
        self.mean = mean

    def fit(self, data: Any, y: Any = None) -> Self:
        """Condition on the rows that the network was trained on; the network is not trained.

        Parameters
        ----------
        data : DataLoader of (inputs, y), array (n, ...) or pair (X, y)
        y : array (n,) or (n, q), optional
            Targets of an array.

        Returns
        -------
        self
        """
        check_in(self.mean, ("network", "posterior"), "mean")
        batches = as_batches(data, y)
        head = head_of(self.module, batches, self.layer)
        rows = gathered(self.module, head, batches, self.noise_std)
        posteriors = conditioned(rows, self.ridge, fit_intercept=head.layer.bias is not None)
        self.head_, self.posteriors_ = head, posteriors
        self.n_outputs_ = rows.prediction.shape[1]
        self.single_target_ = rows.is_flat
        self.ridge_ = self._each("ridge")
        self.scale_ = self._each("scale")
        self.log_evidence_ = float(sum(posterior.log_evidence for posterior in posteriors))
        return self

    def predict(self, data: Any) -> PosteriorPrediction:
        """Return predictive mean, aleatoric and epistemic variance of rows, each (m,), or (m, q) as y came.

        Parameters
        ----------
        data : DataLoader or array (m, ...)

        Returns
        -------
        PosteriorPrediction
            Mean in the units of y, variances in those of y^2.
        """
        law = self.law(self.gather(data))
        return PosteriorPrediction(*(shaped_like_target(part, self.n_outputs_, self.single_target_) for part in law))

    def leverage(self, data: Any) -> Array:
        """Return h(x) = phi'(Phi'W Phi + ridge I)^-1 phi of rows, (m,), or (m, q) where noise differs per output."""
        features = self.gather(data).features
        columns = [posterior.leverage(features) for posterior in self.posteriors_]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    def gather(self, data: Any, y: Any = None) -> Gathered:
        """Return the features and predictions of rows."""
        if "posteriors_" not in vars(self):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit first.")
        return gathered(self.module, self.head_, as_batches(data, y), self.noise_std)

    def law(self, rows: Gathered) -> PosteriorPrediction:
        """Return the prediction (m, q) of gathered rows."""
        law = predicted(self.posteriors_, rows)
        return law if self.mean == "posterior" else law._replace(mean=rows.prediction)

    def _each(self, name: str) -> Array:
        values = [np.ravel(getattr(posterior, name)) for posterior in self.posteriors_]
        return np.resize(np.concatenate(values), self.n_outputs_)


def conditioned(rows: Gathered, ridge: Any, fit_intercept: bool) -> list[LinearPosterior]:
    """Return posteriors given training rows: one for all outputs if they share their noise, otherwise one for each."""
    y = rows.columns
    if rows.noise_std is None:
        posterior = LinearPosterior.of(rows.features, y, ridge=ridge, fit_intercept=fit_intercept)
        # A target without any noise still has that of its rounding: nobody divides by 0.
        largest = np.abs(y).max(axis=0)
        rounding = (EPS * np.where(largest > 0, largest, 1.0)) ** 2
        return [replace(posterior, scale=np.maximum(posterior.scale, rounding))]
    groups = targets_by_noise(y, rows.noise_std.shape[1])
    return [
        LinearPosterior.of(
            rows.features, group, np.square(deviation), ridge=ridge, scale=1.0, fit_intercept=fit_intercept
        )
        for group, deviation in zip(groups, rows.noise_std.T, strict=True)
    ]


def predicted(posteriors: list[LinearPosterior], rows: Gathered) -> PosteriorPrediction:
    """Return the prediction (m, q) of posteriors at rows."""
    variances = [None] if rows.noise_std is None else [np.square(deviation) for deviation in rows.noise_std.T]
    laws = [one.predict(rows.features, v) for one, v in zip(posteriors, variances, strict=True)]
    return PosteriorPrediction(*(np.hstack(part) for part in zip(*laws, strict=True)))
