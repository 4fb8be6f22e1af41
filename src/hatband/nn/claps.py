"""CLAPS: split conformal prediction with the last-layer Laplace posterior as its scale."""

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_confidence_level, check_in
from hatband.conformal.regressor import shaped_like_target
from hatband.diagnostics.laplace import CalibrationArrays, VarianceShares, calibration_arrays, variance_shares
from hatband.formulas.posterior import LinearPosterior, PosteriorPrediction
from hatband.nn.calibrated import calibrated_interval, check_calibrated
from hatband.nn.laplace import conditioned, predicted
from hatband.nn.measure.batches import as_batches
from hatband.nn.measure.network_rows import Gathered, gathered, head_of
from hatband.nn.measure.state import StateFingerprint
from hatband.nn.noise import AsGathered, NoiseSource, ResidualNoise, TemperedNoise

_TRAINED = ("head_", "posteriors_", "noise_", "n_outputs_", "single_target_", "weights_")


def standard_score(y: Array, mean: Array, variance: Array) -> Array:
    """Return z = (y - mean) / variance^1/2; 0 where the variance is infinite, and where y is the mean.

    Parameters
    ----------
    y, mean, variance : array (m,) or (m, q)
        Targets, and the predictive law.

    Returns
    -------
    array
        Signed, dimensionless. |z| orders rows as the two-sided score |2 F(y) - 1| of the normal law does, and never
        saturates. Infinite where the variance is 0 and y is not the mean.

    Notes
    -----
    Elementwise. The score of version 1 of CLAPS (Kim, Choi, Rasool and Oh, arXiv 2512.01384), by its abstract.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.nn.claps import standard_score
    >>> standard_score(np.array([3.0, 40.0]), np.zeros(2), np.array([4.0, 1.0]))
    array([ 1.5, 40. ])
    """
    away = np.asarray(y) - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / np.sqrt(variance))


def two_sided_probability(z: Array) -> Array:
    """Return 2 Phi(|z|) - 1, the published form of the score. To be read, not ranked: it is 1.0 from |z| = 8.3 on.

    Parameters
    ----------
    z : array
        Standard scores.

    Returns
    -------
    array
        From 0 to 1, the probability of the central interval that ends at y.

    Notes
    -----
    |2 F(y) - 1| of version 1 of CLAPS (Kim, Choi, Rasool and Oh, arXiv 2512.01384), by its abstract.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.nn.claps import two_sided_probability
    >>> two_sided_probability(np.array([0.0, 1.96, -9.0])).round(3)
    array([0.  , 0.95, 1.  ])
    """
    return 1 - 2 * norm.sf(np.abs(z))


class ClapsRegressor(BaseEstimator):
    """Intervals f(x) -+ q S(x), S^2 = sigma^2(x) + phi' (tau I + sum_i phi_i phi_i' / sigma_i^2)^-1 phi.

    ``fit_train`` measures the rows that the network was trained on, ``calibrate`` takes the threshold q from rows that
    it has not seen: the ceil((n + 1) level)-th smallest |y - f| / S.

    Parameters
    ----------
    module : nn.Module
        A trained network; never changed.
    layer : str, nn.Module or None, default=None
        Its last linear layer; None finds it, see `find_head`.
    noise : "constant", "learned" or callable(inputs) -> tensor (b,), (b, 1) or (b, q), default="constant"
        sigma(x). "constant" is version 1, whose intervals are those of leverage weighting. "learned": a regression on
        residuals of rows that the network was not trained on (`validation` of `fit_train`). A callable is the noise
        head of the network, such as ``network.noise`` of an `MLP`. Fitted to training residuals it is too small and too
        sure of itself; with `validation` rows it becomes c sigma^k, 0 <= k <= 1, as their residuals bear out.
    ridge : float, list of float, "evidence", "loo", "gcv" or "auto", default="evidence"
        tau, in units of the noise: how it is chosen from the training rows, or its value. "auto" is 1e-4 tr(Phi'W Phi)
        / d.
    confidence_level : float or list of float, default=0.9
    symmetric : bool, default=True
        One threshold for both sides; False gives each side half of the miscoverage.
    random_state : int, RandomState or None, default=None
        For learned noise.

    Attributes
    ----------
    posteriors_ : list of LinearPosterior
        One for all outputs, or one for each where their noise differs.
    scores_ : array (n_cal, q)
        Signed scores (y - f) / S.

    Raises
    ------
    ValueError
        If no head is found, something is not finite, noise is not positive, or is to be learned without `validation`.

    Notes
    -----
    P(y in interval) >= level for calibration rows and new rows that are exchangeable, whatever the network: sigma and
    precision are functions of the training rows alone. Where its weights have changed since, calls raise ValueError.

    A RECONSTRUCTION of Kim, Choi, Rasool and Oh, "Conformal Laplace-aware predictive scaling" (arXiv 2512.01384), from
    the abstracts of versions 1 (homoscedastic) and 4 (heteroscedastic). The score of version 1, two-sided in the
    posterior CDF, is increasing in |z| and is computed as |z|. How noise is fitted, how tau is chosen, and that the
    bias has a flat prior are ours; so are the defaults. Cost: one forward pass and one singular value decomposition,
    O(n d^2) and 8 n d bytes; d^2 per new row. For streams use `LastLayerConformalRegressor`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import ClapsRegressor
    >>> _ = torch.manual_seed(0)
    >>> X = torch.randn(400, 3)
    >>> y = X.sum(1) + torch.randn(400)
    >>> net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))  # trained by you
    >>> model = ClapsRegressor(net).fit_train(X[:200], y[:200]).calibrate(X[200:], y[200:])
    >>> model.predict_interval(X[:5])[1].shape
    (5, 2)
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str | nn.Module | None = None,
        *,
        noise: Literal["constant", "learned"] | Callable[[Any], Any] = "constant",
        ridge: Any = "evidence",
        confidence_level: Any = 0.9,
        symmetric: bool = True,
        random_state: Any = None,
    ) -> None:
        self.module = module
        self.layer = layer
        self.noise = noise
        self.ridge = ridge
        self.confidence_level = confidence_level
        self.symmetric = symmetric
        self.random_state = random_state

    def fit_train(self, data: Any, y: Any = None, *, validation: Any = None) -> Self:
        """Measure the rows that the network was trained on; the network is not trained.

        Parameters
        ----------
        data : DataLoader of (inputs, y), array (n, ...) or pair (X, y)
        y : array (n,) or (n, q), optional
            Targets beside an array.
        validation : DataLoader or pair (X, y), optional
            Rows that the network was not trained on and that will not calibrate: what noise is learned from. Those
            that decided when training stopped will do.

        Returns
        -------
        self
            Earlier calibration scores are gone.

        Raises
        ------
        ValueError
            As the class says; earlier results stay then.
        """
        check_confidence_level(self.confidence_level)
        check_in(self.symmetric, (True, False), "symmetric")
        if not callable(self.noise):
            check_in(self.noise, ("constant", "learned"), "noise")
        batches = as_batches(data, y)
        head = head_of(self.module, batches, self.layer)
        rows = gathered(self.module, head, batches, self.noise if callable(self.noise) else None)
        with_intercept = head.layer.bias is not None
        source = self._source(conditioned(rows, self.ridge, with_intercept), head, validation)
        rows = source.at_training(rows)
        values = (head, conditioned(rows, self.ridge, with_intercept), source)
        self.__dict__.pop("scores_", None)
        state = (*values, rows.prediction.shape[1], rows.is_flat, StateFingerprint.of(self.module))
        self.__dict__.update(zip(_TRAINED, state, strict=True))
        return self

    def _source(self, posteriors: list[LinearPosterior], head: Any, validation: Any) -> NoiseSource:
        """Return where the noise of a row comes from; `posteriors` say how much of held residuals is not noise."""
        if self.noise == "constant" or (callable(self.noise) and validation is None):
            return AsGathered()
        if validation is None:
            raise ValueError(
                "noise='learned' needs residuals of rows that the network was not trained on; pass validation=(X, y), "
                "or noise='constant', or the noise head of the network."
            )
        held = gathered(self.module, head, as_batches(validation), self.noise if callable(self.noise) else None)
        residuals = held.columns - held.prediction
        if callable(self.noise):
            return TemperedNoise.of(held, residuals, predicted(posteriors, held))
        return ResidualNoise.of(held, residuals, posteriors[0], self.random_state)

    def calibrate(self, data: Any, y: Any = None) -> Self:
        """Score rows that the network has not seen; earlier scores are replaced.

        Parameters
        ----------
        data : DataLoader, or array X
            Calibration rows, exchangeable with the rows to come.
        y : array (n,) or (n, q), optional
            Targets beside an array.

        Returns
        -------
        self
            With `scores_` (n, q).

        Raises
        ------
        NotFittedError
            If `fit_train` has not run.
        ValueError
            If there are no targets, or something is not finite; the object stays as it was.
        """
        rows = self._gather(data, y, "calibrate")
        law = self._law(rows)
        self.scores_ = standard_score(rows.columns, law.mean, law.variance)
        return self

    def predict(self, data: Any) -> Array:
        """Return the prediction of the network, (m,) or (m, q) as y came."""
        return self._shaped(self._gather(data, None, "predict").prediction)

    def predict_law(self, data: Any) -> PosteriorPrediction:
        """Return mean, aleatoric and epistemic variance before calibration, each (m,) or (m, q)."""
        law = self._law(self._gather(data, None, "predict_law"))
        return PosteriorPrediction(*map(self._shaped, law))

    def predict_interval(self, data: Any, confidence_level: Any = None) -> tuple[Array, Array]:
        """Predict, with intervals f -+ q S that hold with the stated probability.

        Parameters
        ----------
        data : DataLoader or array (m, ...)
        confidence_level : float or list of float in (0, 1), optional
            The constructor's level by default. A list gives the intervals one more axis.

        Returns
        -------
        prediction : array (m,) or (m, q)
        interval : array (m, 2), (m, q, 2), (m, 2, L) or (m, q, 2, L)
            -inf and inf where nothing can be promised.

        Raises
        ------
        NotFittedError
            If there are no calibration scores.
        """
        rows = self._gather(data, None, "predict_interval")
        check_calibrated(self)
        levels, single = check_confidence_level(self.confidence_level if confidence_level is None else confidence_level)
        law = self._law(rows)
        width = np.sqrt(law.variance)
        return self._shaped(law.mean), calibrated_interval(self, law.mean, width, levels, single)

    def leverage(self, data: Any) -> Array:
        """Return phi'(Phi'W Phi + ridge I)^-1 phi, (m,), or (m, q) where noise differs per output."""
        features = self._gather(data, None, "leverage").features
        columns = [posterior.leverage(features) for posterior in self.posteriors_]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    # ---------------------------------------------------------------- diagnostics

    def variance_shares(self, data: Any, n_groups: int = 10) -> VarianceShares:
        """Return mean aleatoric and epistemic variance by group of leverage, for one output; see `variance_shares`."""
        return variance_shares(self.predict_law(data), self.leverage(data), n_groups)

    def calibration_arrays(self, data: Any, y: Any, level: Any = 0.9) -> CalibrationArrays:
        """Return PITs and densities of y before and after calibration; see `calibration_arrays`."""
        law = self.predict_law(data)
        check_calibrated(self)
        return calibration_arrays(law, np.asarray(y, dtype=float), self.scores_, level, self.random_state)

    # ---------------------------------------------------------------- rows, state

    def _gather(self, data: Any, y: Any, caller: str) -> Gathered:
        if "posteriors_" not in vars(self):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit_train before {caller}.")
        self.weights_.check(self.module)
        noise = self.noise if callable(self.noise) else None
        rows = gathered(self.module, self.head_, as_batches(data, y), noise)
        return self.noise_.at_new(rows)

    def _law(self, rows: Gathered) -> PosteriorPrediction:
        return predicted(self.posteriors_, rows)._replace(mean=rows.prediction)

    def _shaped(self, values: Array) -> Array:
        return shaped_like_target(values, self.n_outputs_, self.single_target_)
