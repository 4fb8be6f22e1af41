"""Width as the predictive deviation of a Laplace posterior: noise that varies, plus epistemic variance."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hatband.arrays.typing import Array
from hatband.fitted.rows import Rows
from hatband.geometry import Space
from hatband.scales.base import Scale, check_training_rows, outputs
from hatband.scales.learned import COLUMNS, Envelope, check_columns
from hatband.scales.learners import magnitude_regressor, smallest_width
from hatband.scales.noise import GivenNoise, LearnedNoise, NoiseModel


@dataclass(frozen=True, eq=False)
class Variances:
    """Aleatoric and epistemic variance of one output, in the same units."""

    envelope: Envelope
    level: float
    """Harmonic mean of the noise variance over the training rows."""
    precision: Space | None
    """Leverage under precision Phi'W Phi + ridge, W = level / sigma^2; None: under equal weights."""

    def of(self, rows: Rows, deviation: Array) -> tuple[Array, Array]:
        """Return sigma^2(x) and level h(x), each (m,); infinite where the leverage is."""
        noise = np.square(self.envelope.widths(rows, deviation, growth=False))
        leverage = rows.leverage if self.precision is None else rows.leverage_in(self.precision)
        return noise, np.where(np.isinf(rows.leverage), np.inf, self.level * leverage)


class LaplaceScale(Scale):
    """Width sqrt(sigma^2(x) + phi' (tau I + sum_i phi_i phi_i' / sigma_i^2)^-1 phi): learned noise, Laplace variance.

    The noise sigma(x) is learned from held-out residuals of training rows, each divided by sqrt(1 + h(x_i)) to leave
    out the model's own error. It is tempered: sigma^k, where k from 0 to 1 fits best on residuals that were held out
    from the regression. The prior precision tau is the model's ridge over the noise variance; an intercept has a flat
    prior.

    Parameters
    ----------
    noise : regressor, callable(rows) -> array (m,) or (m, q), or None, default=None
        What sigma(x) is: None a ``HistGradientBoostingRegressor`` with gamma loss for |residual|; a regressor is
        fitted in its place; a callable is used up to a common factor: the noise head of a network.
    columns : tuple of str, default=("leverage", "prediction", "inputs")
        What the regressor sees: log h(x), the prediction, the numeric inputs of the model.
    random_state : int, RandomState or None, default=None
        For the default regressor. None: that of the estimator around the scale.

    Attributes
    ----------
    noise_ : list
        The noise model of each output.
    variances_ : list
        What turns rows and noise into the two variances, one for each output.

    Raises
    ------
    ValueError
        If columns names none or an unknown one, or the noise is not positive and finite.

    Notes
    -----
    The score |y - mu| / S(x) of CLAPS, "conformal Laplace-aware predictive scaling" (Kim, Choi, Rasool and Oh,
    arXiv 2512.01384, version 4), RECONSTRUCTED from its abstract: noise model, prior and its estimation are ours. Only
    the ratio of noise to ridge matters, and the threshold carries the units: constant noise gives `LeverageScale`, an
    infinite ridge gives |residual| / sigma(x), and with many rows the epistemic part vanishes. In-sample residuals
    would make sigma too small by sqrt(1 - h). Where the model has neither features nor a kernel that can be weighted
    (landmarks, one ridge per output), h is the leverage under equal weights. sigma never falls below 1e-3 of the median
    |residual| and is the largest training one beyond the training rows. Cost: four regressions and one
    factorisation per output.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import LaplaceScale, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=LaplaceScale(), random_state=0).fit(X, y)
    >>> model.predict_interval(X)[1].shape
    (442, 2)
    """

    needs_residuals: ClassVar[bool] = True

    def __init__(self, noise: Any = None, columns: tuple[str, ...] = COLUMNS, *, random_state: Any = None) -> None:
        self.noise = noise
        self.columns = columns
        self.random_state = random_state

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Learn from training rows and their held-out residuals (n, q)."""
        rows, residuals, weight = check_training_rows(self, rows, residuals, sample_weight)
        check_columns(self.columns)
        noise, variances = [], []
        for j, (one, residual) in enumerate(zip(outputs(rows, residuals.shape[1]), residuals.T, strict=True)):
            model = self._noise_model(j, one, residual, weight)
            deviation = model(one)
            # Noise that is given may have any unit, and a floor in that of the residuals could hide it.
            envelope = Envelope.of(one, deviation, residual if isinstance(model, LearnedNoise) else deviation)
            noise.append(model)
            variances.append(_variances(one, envelope, deviation, weight))
        self.noise_, self.variances_ = noise, variances
        return self

    def predict(self, rows: Rows) -> tuple[float, Array]:
        """Return shift 0 and width (m, q)."""
        aleatoric, epistemic = self.variances(rows)
        return 0.0, np.sqrt(aleatoric + epistemic)

    def variances(self, rows: Rows) -> tuple[Array, Array]:
        """Return aleatoric sigma^2(x) and epistemic variance (m, q), whose sum is the square of the width.

        Parameters
        ----------
        rows : Rows
            Rows of the model that the scale was fitted for.

        Returns
        -------
        aleatoric, epistemic : array (m, q)
            In the units of y^2 where the noise was learned; infinite where the leverage is.
        """
        views = zip(outputs(rows, len(self.noise_)), self.noise_, self.variances_, strict=True)
        pairs = [variances.of(one, model(one)) for one, model, variances in views]
        aleatoric, epistemic = (np.stack(part, axis=1) for part in zip(*pairs, strict=True))
        return aleatoric, epistemic

    def _noise_model(self, j: int, rows: Rows, residual: Array, sample_weight: Array | None) -> NoiseModel:
        if self.noise is not None and not hasattr(self.noise, "fit"):
            return GivenNoise(self.noise, j)
        # E r_-i^2 = sigma_i^2 (1 + h_-i) where the noise is locally constant.
        size = np.abs(residual) / np.sqrt(1 + np.where(np.isinf(rows.leverage), 0.0, rows.leverage))
        regressor = magnitude_regressor(self.random_state) if self.noise is None else self.noise
        target = np.maximum(size, smallest_width(residual))
        return LearnedNoise.of(
            regressor, self.columns, rows, target, weight=sample_weight, random_state=self.random_state
        )


def _variances(rows: Rows, envelope: Envelope, deviation: Array, sample_weight: Array | None) -> Variances:
    """Weight training rows by level / sigma_i^2, of mean 1: the ridge keeps its meaning in the model."""
    precision = 1 / np.square(np.clip(deviation, envelope.floor, envelope.ceiling))
    level = 1 / float(np.average(precision, weights=sample_weight))
    weights = level * precision if sample_weight is None else level * precision * sample_weight
    return Variances(envelope, level, rows.reweighted(weights))
