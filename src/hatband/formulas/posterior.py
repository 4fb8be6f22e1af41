"""Gaussian posterior of a model that is linear in given features: mean, aleatoric and epistemic variance."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hatband.arrays.backend import on_host
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_no_nan, check_target
from hatband.formulas.ridge_choice import chosen_ridge, last_layer_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.linalg import Auto, Factor


class PosteriorPrediction(NamedTuple):
    """Predictive mean and the two parts of the predictive variance, each (m,) or (m, q).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import PosteriorPrediction
    >>> PosteriorPrediction(np.zeros(2), np.ones(2), np.array([0.5, 3.0])).variance
    array([1.5, 4. ])
    """

    mean: Array
    """phi(x)'w + b."""
    aleatoric: Array
    """Variance of the noise at x."""
    epistemic: Array
    """Variance of phi(x)'w + b under the posterior; inf where the training rows do not determine it."""

    @property
    def variance(self) -> Array:
        """Variance of a new y: aleatoric + epistemic."""
        return self.aleatoric + self.epistemic


@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """w | y ~ N(A^-1 Phi'W y, s A^-1), A = Phi'W Phi + ridge I, W = diag(1 / v_i): Laplace posterior of a last layer.

    The predictive variance at x is s v(x) + s h(x): aleatoric, with v(x) the relative noise variance, and epistemic,
    with h(x) = phi(x)'A^-1 phi(x) the leverage. Constant noise is v = 1.

    Parameters
    ----------
    factor : Factor
        Of A; with an intercept under a flat prior.
    slopes : array (d, q)
    intercept : array (q,)
    scale : array (q,)
        s of each output: the noise variance where v = 1.
    log_evidence : float
        Log density of y at this ridge and scale, summed over outputs.
    single : bool
        Whether y had one axis.

    Notes
    -----
    Cost: one factorisation, n d^2 + d^3 / 3, and one spectrum where the ridge is chosen; d^2 for each row predicted.
    Exact for a linear Gaussian model. For a network it is the Laplace approximation of the last layer, features held
    fixed: MacKay (1992); Daxberger et al. (2021). No frequentist guarantee: calibrate before use.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband import LinearPosterior
    >>> rng = np.random.default_rng(0)
    >>> features = rng.normal(size=(500, 3))
    >>> posterior = LinearPosterior.of(features, features.sum(axis=1) + 0.1 * rng.normal(size=500))
    >>> near, far = posterior.predict(np.array([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]])).epistemic
    >>> bool(far > 100 * near)
    True
    """

    factor: Factor
    slopes: Float[Array, "d q"]
    intercept: Float[Array, " q"]
    scale: Float[Array, " q"]
    log_evidence: float
    single: bool = False

    @classmethod
    def of(
        cls,
        features: Shaped[Array, "n d"],
        y: Shaped[Array, "n *q"],
        noise_variance: Any = None,
        *,
        ridge: Any = "evidence",
        scale: Any = None,
        fit_intercept: bool = True,
    ) -> "LinearPosterior":
        """Condition on training rows.

        Parameters
        ----------
        features : array or tensor (n, d)
        y : array or tensor (n,) or (n, q)
        noise_variance : array (n,), optional
            v_i > 0; constant when None. Fitted to residuals of the same rows, they would be too small.
        ridge : float, list of float, "evidence", "loo", "gcv" or "auto"
            How the ridge is chosen; "auto" is 1e-4 tr(Phi'W Phi) / d, as for a last layer. A prior precision tau is a
            ridge of tau s.
        scale : float or array (q,), optional
            s; None: the one that maximises the evidence. 1.0 takes the noise variances unchanged.
        fit_intercept : bool
            Whether there is an intercept, under a flat prior.

        Raises
        ------
        ValueError
            If anything is not finite, a noise variance is not positive, or the ridge is negative or unknown.
        """
        target, single = check_target(on_host(y))
        phi = np.asarray(on_host(features), dtype=np.float64)
        weights = None if noise_variance is None else 1 / checked_noise_variance(noise_variance, len(phi))
        spectrum = RidgeSpectrum.of(phi, target, weights, fit_intercept)
        strength = chosen_ridge(
            ridge, auto=lambda: last_layer_ridge(spectrum.trace, phi.shape[1]), spectrum=lambda: spectrum
        )
        factor = Auto().factor(phi, strength, weights, fit_intercept)
        # Fitting about the means keeps digits where these are large.
        mean, y_mean = factor.mean, np.zeros(target.shape[1])
        if fit_intercept:
            y_mean = np.average(target, axis=0, weights=weights)
        weighted = target - y_mean if weights is None else weights[:, None] * (target - y_mean)
        slopes = factor.solve((phi - mean).T @ weighted)
        given = np.array(
            spectrum.noise(strength) if scale is None else np.broadcast_to(scale, y_mean.shape), dtype=float
        )
        # Without a ridge the prior is improper, and y has no density.
        evidence = spectrum.log_evidence(strength, given) if strength and (given > 0).all() else -np.inf
        return cls(factor, slopes, y_mean - mean @ slopes, given, evidence, single)

    @property
    def ridge(self) -> float:
        """The ridge, given or chosen."""
        return float(self.factor.ridge)

    @property
    def prior_precision(self) -> Float[Array, " q"]:
        """Tau = ridge / s of each output: the prior is w ~ N(0, I / tau)."""
        return self.ridge / self.scale

    def leverage(self, rows: Shaped[Array, "m d"]) -> Float[Array, " m"]:
        """Return h(x) = phi'A^-1 phi."""
        return self.factor.leverage(np.asarray(on_host(rows), dtype=np.float64))

    def predict(self, rows: Shaped[Array, "m d"], noise_variance: Any = None) -> PosteriorPrediction:
        """Return mean, aleatoric variance s v(x) and epistemic variance s h(x) of rows.

        Parameters
        ----------
        rows : array or tensor (m, d)
            Features.
        noise_variance : array (m,), optional
            v(x) of these rows; 1 when None.

        Returns
        -------
        PosteriorPrediction
            Of arrays (m,), or (m, q) for y with an output axis.
        """
        phi = np.asarray(on_host(rows), dtype=np.float64)
        relative = np.ones(len(phi))
        if noise_variance is not None:
            relative = checked_noise_variance(noise_variance, len(phi))
        parts = (
            phi @ self.slopes + self.intercept,
            relative[:, None] * self.scale,
            self.leverage(phi)[:, None] * self.scale,
        )
        return PosteriorPrediction(*(part[:, 0] if self.single else part for part in parts))


def checked_noise_variance(noise_variance: Any, n_samples: int) -> Float[Array, " n"]:
    """Return noise variances as float64 (n,), finite and > 0."""
    values = np.asarray(on_host(noise_variance), dtype=np.float64)
    check_no_nan(values, "noise_variance")
    if values.shape != (n_samples,):
        raise ValueError(
            f"noise_variance must hold one variance per row, shape ({n_samples},); got shape {values.shape}."
        )
    bad = ~((values > 0) & np.isfinite(values))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"noise_variance must be finite and > 0; row {row} has {values[row]}.")
    return values
