"""How large a ridge the training rows ask for: evidence, leave-one-out and generalised cross-validation.

The model y_i = b + phi_i'w + N(0, s / w_i), w ~ N(0, s / ridge I) with known weights w_i: its posterior precision is
(Phi'W Phi + ridge I) / s, so the ridge is the noise over the prior variance, and s (1 / w(x) + h(x)) is the predictive
variance. Everything here is read off one decomposition W^1/2 Phi = U S V'; y enters through U'W^1/2 y. With an
intercept Phi and y are centred at their weighted means, and b, under a flat prior, is integrated out.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from hatband.arrays.backend import EPS
from hatband.arrays.kinds import on_host
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_finite, check_in, check_rows_for_noise, check_weights
from hatband.linalg import GramStatistics, TriangularStatistics

# Relative to the mean squared singular value: from "no penalty" to "predict the mean".
RELATIVE_RIDGES = np.logspace(-10, 6, 65)
# What a ridge is relative to the mean squared length of a feature, when nothing chooses it.
SMALL_RIDGE = 1e-4


class TrainingSide(NamedTuple):
    """What only rows can say: U (n, r), the part of W^1/2 y (n, q) outside it, and what the intercept adds to w h."""

    left: Array
    rest: Array
    share: Array


@dataclass(frozen=True, eq=False)
class RidgeSpectrum:
    """What ridge regression says of y at every ridge: evidence, noise, effective dimension, PRESS and GCV.

    Parameters
    ----------
    squares : array (r,)
        Squared singular values of W^1/2 Phi.
    coordinates : array (r, q)
        U'W^1/2 y.
    remainder : array (q,)
        Squared length of the part of W^1/2 y outside the columns of U.
    freedom : int
        n, or n - 1 with an intercept.
    constant : float
        What the log evidence holds beside the ridge and the noise: sum_i log(w_i) / 2, with an intercept less
        log(sum_i w_i) / 2.
    n_features : int
        d.
    side : TrainingSide, or None
        For PRESS.

    Notes
    -----
    One decomposition, n d min(n, d) operations, then O(r q) for each ridge (PRESS: n r). MacKay (1992), "Bayesian
    interpolation"; Golub, Heath and Wahba (1979) for PRESS and GCV.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.ridge_choice import RidgeSpectrum
    >>> rng = np.random.default_rng(0)
    >>> features, slopes = rng.normal(size=(2_000, 20)), rng.normal(size=20)
    >>> spectrum = RidgeSpectrum.of(features, features @ slopes + 0.5 * rng.normal(size=2_000))
    >>> ridge = spectrum.best_ridge("evidence")
    >>> np.round(spectrum.noise(ridge) ** 0.5, 1)  # the deviation of the noise
    array([0.5])
    """

    squares: Float[Array, " r"]
    coordinates: Float[Array, "r q"]
    remainder: Float[Array, " q"]
    freedom: int
    constant: float
    n_features: int
    side: TrainingSide | None = None

    @classmethod
    def of(
        cls,
        features: Shaped[Array, "n d"],
        y: Shaped[Array, "n *q"],
        weights: Any = None,
        fit_intercept: bool = True,
    ) -> "RidgeSpectrum":
        """Decompose training features.

        Parameters
        ----------
        features : array or tensor (n, d)
        y : array or tensor (n,) or (n, q)
        weights : array (n,), optional
            Precisions of the noise up to a common factor; rows of weight 0 are left out.
        fit_intercept : bool

        Raises
        ------
        ValueError
            If anything is not finite, or a weight is negative.
        """
        phi, target = (np.asarray(on_host(values), dtype=np.float64) for values in (features, y))
        target = target.reshape(len(target), -1)
        check_finite(phi, "features")
        check_finite(target, "y")
        w = np.ones(len(phi)) if weights is None else check_weights(on_host(weights), len(phi))
        used = w > 0
        phi, target, w = phi[used], target[used], w[used]
        if fit_intercept:
            phi, target = phi - np.average(phi, axis=0, weights=w), target - np.average(target, axis=0, weights=w)
        root = np.sqrt(w)[:, None]
        values, coordinates, left, rest = _decomposed(root * phi, root * target, len(w))
        share = w / w.sum() if fit_intercept else np.zeros(len(w))
        return cls(
            squares=values**2,
            coordinates=coordinates,
            remainder=np.square(rest).sum(axis=0),
            freedom=len(w) - fit_intercept,
            constant=float(np.log(w).sum() - (np.log(w.sum()) if fit_intercept else 0.0)) / 2,
            n_features=phi.shape[1],
            side=TrainingSide(left, rest, share),
        )

    @classmethod
    def of_statistics(
        cls, statistics: GramStatistics | TriangularStatistics, fit_intercept: bool = True
    ) -> "RidgeSpectrum":
        """Decompose running statistics of unweighted rows with targets; the rows are not needed.

        Parameters
        ----------
        statistics : GramStatistics or TriangularStatistics
            Of features and targets. A Gram matrix squares the condition number: what is small in y beside its fit is
            lost in rounding. A triangle keeps it.
        fit_intercept : bool

        Raises
        ------
        ValueError
            If the statistics hold no targets.
        """
        if not statistics.n_targets:
            raise ValueError("the evidence is about y, and these statistics hold features alone; add rows with y.")
        root = _root(statistics)
        if not fit_intercept:
            root = np.vstack([root, statistics.weight**0.5 * np.asarray(on_host(statistics.centre.mean))])
        d, n = statistics.n_features, statistics.n_samples
        values, coordinates, _, rest = _decomposed(root[:, :d], root[:, d:], n)
        return cls(
            squares=values**2,
            coordinates=coordinates,
            remainder=np.square(rest).sum(axis=0),
            freedom=n - fit_intercept,
            constant=-0.5 * float(np.log(n)) if fit_intercept else 0.0,
            n_features=d,
        )

    @classmethod
    def of_kernel(
        cls, kernel: Float[Array, "n n"], y: Float[Array, "n *q"], fit_intercept: bool = True
    ) -> "RidgeSpectrum":
        """Decompose K = Phi Phi', where there are more features than rows: n^3 operations.

        Parameters
        ----------
        kernel : array (n, n)
        y : array (n,) or (n, q)
        fit_intercept : bool
        """
        target, n = y.reshape(len(y), -1), len(y)
        if fit_intercept:
            middle = np.eye(n) - 1 / n
            kernel, target = middle @ kernel @ middle, target - target.mean(axis=0)
        values, vectors = np.linalg.eigh(kernel)
        kept = values > n * EPS * values.max(initial=0.0)
        left, coordinates = vectors[:, kept], vectors[:, kept].T @ target
        rest = target - left @ coordinates
        return cls(
            squares=values[kept],
            coordinates=coordinates,
            remainder=np.square(rest).sum(axis=0),
            freedom=n - fit_intercept,
            constant=-0.5 * float(np.log(n)) if fit_intercept else 0.0,
            n_features=n,
            side=TrainingSide(left, rest, np.full(n, fit_intercept / n)),
        )

    # ---------------------------------------------------------------- at one ridge

    def log_evidence(self, ridge: float, noise: Any = None) -> float:
        """Return log p(y) = c - (m log(2 pi s) + sum_j log(1 + s_j^2 / ridge) + y'P y / s) / 2, summed over outputs.

        Parameters
        ----------
        ridge : float
            > 0.
        noise : float or array (q,), optional
            s, the noise variance at weight 1; the maximising y'P y / m when None, m = `freedom`.
        """
        variance = np.broadcast_to(self.noise(ridge) if noise is None else noise, self.remainder.shape)
        volume = float(np.log1p(self.squares / ridge).sum())
        fit = self.freedom * np.log(2 * np.pi * variance) + self._unexplained(ridge) / variance
        return float(len(variance) * (self.constant - volume / 2) - fit.sum() / 2)

    def noise(self, ridge: float) -> Float[Array, " q"]:
        """Return the noise variance y'P y / m that maximises the evidence at this ridge; ValueError where m = 0."""
        check_rows_for_noise(self.freedom + 1)
        return self._unexplained(ridge) / self.freedom

    def effective_dimension(self, ridge: float) -> float:
        """Return sum_j s_j^2 / (s_j^2 + ridge); an intercept is not counted."""
        return float((self.squares / (self.squares + ridge)).sum())

    def gcv(self, ridge: float) -> Float[Array, " q"]:
        """Return m |e|^2 / (m - g)^2, g the effective dimension and m = `freedom`; Golub, Heath and Wahba (1979)."""
        shrunk = ridge / (self.squares + ridge)
        left = self.freedom - self.effective_dimension(ridge)
        error = self.remainder + np.square(shrunk) @ np.square(self.coordinates)
        return np.full(error.shape, np.inf) if left <= 0 else self.freedom * error / left**2

    def press(self, ridge: float) -> Float[Array, " q"]:
        """Return sum_i w_i (e_i / (1 - w_i h_i))^2, the squared leave-one-out residuals.

        Raises
        ------
        ValueError
            If this is the spectrum of statistics, which keep no rows.
        """
        if self.side is None:
            raise ValueError("PRESS needs the training rows; statistics have only 'evidence' and 'gcv'.")
        left, rest, share = self.side
        shrunk = ridge / (self.squares + ridge)
        errors = rest + left @ (shrunk[:, None] * self.coordinates)
        outside = 1 - share - np.square(left).sum(axis=1)
        complement = np.maximum(outside, 0.0) + np.square(left) @ shrunk
        return np.square(errors / complement[:, None]).sum(axis=0)

    def _unexplained(self, ridge: float) -> Float[Array, " q"]:
        """Return y'P y = |e|^2 + ridge |b|^2, as a sum in which nothing cancels."""
        return self.remainder + (ridge / (self.squares + ridge)) @ np.square(self.coordinates)

    # ---------------------------------------------------------------- choice of the ridge

    @property
    def default_ridge(self) -> float:
        """1e-4 tr(Phi'W Phi) / d: small beside the features, whatever their units; 1e-4 where all are constant."""
        return SMALL_RIDGE * (float(self.squares.sum()) / self.n_features or 1.0)

    def best_ridge(self, criterion: str = "evidence") -> float:
        """Return the ridge that maximises the evidence, or minimises PRESS or GCV relative to the spread of y.

        Parameters
        ----------
        criterion : {"evidence", "press", "gcv"}
            Outputs share the ridge; each has a noise of its own.

        Returns
        -------
        float
            Between 1e-10 and 1e6 times the mean squared singular value; at the upper end where y does not depend on
            the features.

        Raises
        ------
        ValueError
            If the criterion is none of the three, or is "press" and there are no rows.
        """
        check_in(criterion, tuple(_LOSSES), "ridge")
        if not self.squares.size:
            return self.default_ridge
        grid = np.log(RELATIVE_RIDGES * self.squares.mean())
        losses = [_LOSSES[criterion](self, float(np.exp(point))) for point in grid]
        best = int(np.argmin(losses))
        bracket = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        found = minimize_scalar(
            lambda point: _LOSSES[criterion](self, float(np.exp(point))),
            bounds=bracket,
            method="bounded",
            options={"xatol": 1e-8},
        )
        return float(np.exp(found.x if found.fun < losses[best] else grid[best]))


def _decomposed(phi: Array, y: Array, n_samples: int) -> tuple[Array, Array, Array, Array]:
    """Return singular values, U'y, U, and what of y lies outside U; directions lost in rounding are left out."""
    left, values, _ = np.linalg.svd(phi, full_matrices=False)
    kept = values > max(n_samples, phi.shape[1]) * EPS * values.max(initial=0.0)
    left = left[:, kept]
    coordinates = left.T @ y
    return values[kept], coordinates, left, y - left @ coordinates


@functools.singledispatch
def _root(statistics: Any) -> Array:
    """Return a matrix R with R'R the centred Gram matrix of features and targets."""
    raise TypeError(f"statistics must be GramStatistics or TriangularStatistics; got {type(statistics).__name__}.")


@_root.register
def _root_of_gram(statistics: GramStatistics) -> Array:
    values, vectors = np.linalg.eigh(np.asarray(on_host(statistics.joint)))
    return np.sqrt(values.clip(0.0))[:, None] * vectors.T


@_root.register
def _root_of_triangle(statistics: TriangularStatistics) -> Array:
    return np.asarray(on_host(statistics.triangle))


def _relative(spectrum: RidgeSpectrum, errors: Array) -> float:
    spread = spectrum.remainder + np.square(spectrum.coordinates).sum(axis=0)
    return float((errors / np.where(spread > 0, spread, 1.0)).sum())


def _minus_evidence(spectrum: RidgeSpectrum, ridge: float) -> float:
    # Targets without any noise have infinite evidence at every ridge: floored, they leave the choice to the others.
    spread = spectrum.remainder + np.square(spectrum.coordinates).sum(axis=0)
    floor = np.maximum(EPS**2 * spread, np.finfo(float).tiny) / spectrum.freedom
    return -spectrum.log_evidence(ridge, np.maximum(spectrum.noise(ridge), floor))


_LOSSES: dict[str, Callable[[RidgeSpectrum, float], float]] = {
    "evidence": _minus_evidence,
    "press": lambda spectrum, ridge: _relative(spectrum, spectrum.press(ridge)),
    "gcv": lambda spectrum, ridge: _relative(spectrum, spectrum.gcv(ridge)),
}
