"""Ridge regression of y at every ridge, from one decomposition of the training rows.

The model y_i = b + phi_i'w + N(0, s / w_i), w ~ N(0, s / ridge I) with known weights w_i: its posterior precision is
(Phi'W Phi + ridge I) / s, so the ridge is the noise over the prior variance, and s (1 / w(x) + h(x)) is the predictive
variance. Everything here is read off W^1/2 Phi = U S V'; y enters through U'W^1/2 y. With an intercept Phi and y are
centred at their weighted means, and b, under a flat prior, is integrated out.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hatband.arrays.backend import EPS, on_host
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_finite, check_rows_for_noise, check_weights
from hatband.formulas.leave_one_out import INTERPOLATED
from hatband.linalg import GramStatistics, KernelSpectrum, TriangularStatistics


class TrainingSide(NamedTuple):
    """The parts that need the rows; the intercept is not in U."""

    left: Float[Array, "n r"]
    """U."""
    rest: Float[Array, "n q"]
    """The part of W^1/2 y outside U."""
    outside: Float[Array, " n"]
    """1 - w h at ridge 0: what U and the intercept leave of each row."""
    rounding: float
    """Below this 1 - w h is rounding error; 0 if the rest has its own basis and is not a difference."""


@dataclass(frozen=True, eq=False)
class RidgeSpectrum:
    """Ridge regression of y at every ridge: leave-one-out error, GCV, evidence, noise, effective dimension.

    Parameters
    ----------
    squares : array (r,)
        Squared singular values of W^1/2 Phi, > 0.
    coordinates : array (r, q)
        U'W^1/2 y.
    remainder : array (q,)
        Squared length of the part of W^1/2 y outside the columns of U.
    freedom : int
        n, or n - 1 with an intercept.
    constant : float
        What the log evidence holds beside the ridge and the noise: sum_i log(w_i) / 2, with an intercept less
        log(sum_i w_i) / 2.
    side : TrainingSide, or None
        For leave-one-out.

    Notes
    -----
    One decomposition, n d min(n, d) operations, then O(r q) for each ridge (leave-one-out: n r).

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.formulas.ridge_choice import best_ridge
    >>> from hatband.formulas.ridge_spectrum import RidgeSpectrum
    >>> rng = np.random.default_rng(0)
    >>> features, slopes = rng.normal(size=(2_000, 20)), rng.normal(size=20)
    >>> spectrum = RidgeSpectrum.of(features, features @ slopes + 0.5 * rng.normal(size=2_000))
    >>> ridge = best_ridge(spectrum, "evidence")
    >>> np.round(spectrum.noise(ridge) ** 0.5, 1)  # the deviation of the noise
    array([0.5])
    """

    squares: Float[Array, " r"]
    coordinates: Float[Array, "r q"]
    remainder: Float[Array, " q"]
    freedom: int
    constant: float
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
        w = None if weights is None else check_weights(on_host(weights), len(phi))
        if w is not None:
            phi, target, w = phi[w > 0], target[w > 0], w[w > 0]
        if fit_intercept:
            phi, target = phi - np.average(phi, axis=0, weights=w), target - np.average(target, axis=0, weights=w)
        root = np.ones(len(phi))
        if w is not None:
            root = np.sqrt(w)
            phi, target = root[:, None] * phi, root[:, None] * target
        unit = root / np.linalg.norm(root) if fit_intercept else None
        return cls._of_rows(_basis(phi, unit), target, root, unit)

    @classmethod
    def of_kernel(cls, spectrum: KernelSpectrum, y: Shaped[Array, "n *q"]) -> "RidgeSpectrum":
        """Make the spectrum from the eigenvalues of a kernel matrix K = Phi Phi', for more features than rows.

        Parameters
        ----------
        spectrum : KernelSpectrum
            Of K, with its weights and its intercept.
        y : array (n,) or (n, q)
        """
        frame, numpy = spectrum.frame, spectrum.frame.backend.numpy
        values, vectors = numpy(spectrum.values), numpy(spectrum.vectors)
        target = numpy(frame.enter_targets(y.reshape(len(y), -1))[0])
        root = np.ones(len(target)) if frame.root is None else numpy(frame.root)
        unit = None if frame.unit is None else numpy(frame.unit)
        # Ascending, so that both parts are views.
        lost = int((values <= len(target) * EPS * values.max(initial=0.0)).sum())
        return cls._of_rows(Basis(vectors[:, lost:], values[lost:], vectors[:, :lost]), target, root, unit)

    @classmethod
    def _of_rows(
        cls,
        basis: "Basis",
        target: Float[Array, "n q"],
        root: Float[Array, " n"],
        unit: Float[Array, " n"] | None,
    ) -> "RidgeSpectrum":
        """Make the spectrum from weighted targets: their coordinates in U, and the rest outside U and the intercept."""
        left, squares, null = basis
        coordinates, logs, freedom = left.T @ target, float(np.log(root).sum()), len(target)
        share: Any = 0.0
        if unit is not None:
            share, freedom, logs = unit**2, freedom - 1, logs - float(np.log(np.square(root).sum())) / 2
        if null is None:
            outside = np.maximum(1 - share - np.square(left).sum(axis=1), 0.0)
            side = TrainingSide(left, target - left @ coordinates, outside, INTERPOLATED)
        else:
            side = TrainingSide(left, null @ (null.T @ target), np.square(null).sum(axis=1), 0.0)
        return cls(squares, coordinates, np.square(side.rest).sum(axis=0), freedom, logs, side)

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
            raise ValueError("the evidence needs y, and these statistics hold only features; add rows with y.")
        root = np.asarray(on_host(statistics.root()))
        if not fit_intercept:
            root = np.vstack([root, statistics.weight**0.5 * np.asarray(on_host(statistics.centre.mean))])
        d, n = statistics.n_features, statistics.n_samples
        left, squares, _ = _basis(root[:, :d], None, n)
        coordinates = left.T @ root[:, d:]
        remainder = np.square(root[:, d:] - left @ coordinates).sum(axis=0)
        logs = -0.5 * float(np.log(n)) if fit_intercept else 0.0
        return cls(squares, coordinates, remainder, n - fit_intercept, logs)

    # ---------------------------------------------------------------- at one ridge

    @property
    def trace(self) -> float:
        """tr(Phi'W Phi), about the mean with an intercept."""
        return float(self.squares.sum())

    @property
    def size(self) -> Float[Array, " q"]:
        """|W^1/2 y|^2 of each output, about its mean with an intercept."""
        return self.remainder + np.square(self.coordinates).sum(axis=0)

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

    def press(self, ridges: Float[Array, " L"]) -> Float[Array, "L q"]:
        """Return sum_i w_i (e_i / (1 - w_i h_i))^2, the squared leave-one-out residuals (PRESS), at each ridge.

        inf at ridges where a row is interpolated: no other row says anything about it.

        Raises
        ------
        ValueError
            If this is the spectrum of statistics, which keep no rows.
        """
        if self.side is None:
            raise ValueError(
                "PRESS needs the training rows, and running statistics keep none; use 'gcv' or 'evidence'."
            )
        left, rest, outside, rounding = self.side
        # U is orthogonal to the rest, and both terms of each sum are known without a difference.
        shrunk = ridges / (self.squares[:, None] + ridges)
        complement = np.square(left) @ shrunk
        complement += outside[:, None]
        lost = (complement <= rounding).any(axis=0)
        complement[:, lost] = 1.0
        found = np.empty((len(ridges), len(self.remainder)))
        for j in range(len(self.remainder)):
            errors = left @ (self.coordinates[:, [j]] * shrunk)
            errors += rest[:, [j]]
            errors /= complement
            found[:, j] = np.where(lost, np.inf, np.square(errors, out=errors).sum(axis=0))
        return found

    def dual(self, ridge: float) -> Float[Array, "n q"]:
        """Return a = U (S^2 + ridge)^-1 U'W^1/2 y of rows with a weight: the slopes are Phi'W^1/2 a, Phi centred."""
        if self.side is None:
            raise ValueError("dual coefficients need the training rows, and running statistics keep none.")
        return self.side.left @ (self.coordinates / (self.squares[:, None] + ridge))

    def _unexplained(self, ridge: float) -> Float[Array, " q"]:
        """Return y'P y = |e|^2 + ridge |b|^2, as a sum without cancellation."""
        return self.remainder + (ridge / (self.squares + ridge)) @ np.square(self.coordinates)


class Basis(NamedTuple):
    """U, its singular values and its complement, all orthogonal to the direction of the intercept."""

    left: Float[Array, "n r"]
    """U."""
    squares: Float[Array, " r"]
    """S^2."""
    null: Float[Array, "n p"] | None
    """A basis of what U and the intercept leave; None where that has more columns than U."""


def _basis(phi: Float[Array, "n d"], unit: Float[Array, " n"] | None, n_samples: int = 0) -> Basis:
    """Decompose weighted, centred rows. Directions lost in rounding are not part of U."""
    few = len(phi) - (unit is not None) <= phi.shape[1]
    left, values = _few_rows(phi, unit) if few else np.linalg.svd(phi, full_matrices=False)[:2]
    kept = values > max(n_samples, *phi.shape) * EPS * values.max(initial=0.0)
    return Basis(left[:, kept], values[kept] ** 2, left[:, ~kept] if few else None)


def _few_rows(phi: Float[Array, "n d"], unit: Float[Array, " n"] | None) -> tuple[Array, Array]:
    """Return left vectors and singular values of no more rows than columns; the vectors span all but `unit`.

    A reflection takes `unit` to the first axis, which is then left out: the rest is orthogonal to it exactly.
    """
    axis = np.zeros(len(phi)) if unit is None else unit + np.eye(1, len(unit))[0]
    axis /= np.linalg.norm(axis) or 1.0
    first = 0 if unit is None else 1
    triangle = np.asarray(np.linalg.qr(_reflected(phi, axis)[first:].T, mode="r"))
    left, values, _ = np.linalg.svd(triangle.T, full_matrices=False)
    return _reflected(np.vstack([np.zeros((first, left.shape[1])), left]), axis), values


def _reflected(matrix: Float[Array, "n k"], axis: Float[Array, " n"]) -> Float[Array, "n k"]:
    return matrix - 2 * axis[:, None] * (axis @ matrix)
