"""Singular values: many ridges from one decomposition, and rank-deficient features at ridge 0."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_ridge
from hatband.linalg.base import Factor
from hatband.linalg.cholesky import orthogonal_error, power_of_two
from hatband.linalg.design import OUTSIDE, Design, Frame, centred, design_of, determined
from hatband.linalg.qr import stacked_triangle

# What an orthogonal projection loses of a row, or of the largest singular value: up to 9 EPS on 600 x 1,500.
ROUNDING = 32


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Thin decomposition W^1/2 Phi / unit = U S V'.

    Parameters
    ----------
    frame : Frame
        How raw rows enter; its columns are then divided by `unit`.
    vectors : array of shape (k, r)
        V.
    values : array of shape (r,)
        Singular values, descending; exactly 0 where rounding cannot tell them from 0.
    unit : array of shape (k,)
        Divisor of each column.
    """

    frame: Frame
    vectors: Float[Array, "k r"]
    values: Float[Array, " r"]
    unit: Float[Array, " k"]

    @cached_property
    def has_null(self) -> bool:
        """Whether there are directions outside the span of the training rows."""
        return len(self.values) < len(self.unit) or bool((self.values == 0).any())

    @property
    def is_raw(self) -> bool:
        """Whether the columns are those of the user, with no column dropped or scaled."""
        return self.frame.constant is None and not bool((self.unit != 1).any())

    def reader(self, rank: int) -> Float[Array, "k r"]:
        """Return T with z = T'phi, the coordinates in V of the part of phi that lies in the row space.

        Where columns are dependent there are many such T. This one projects orthogonally in the user's columns, not in
        columns / unit, so that cross-leverages are those of the least-norm fit.
        """
        whole = self.vectors / self.unit[:, None]
        if rank == len(self.unit) or not rank:
            return whole
        left, values, right = self.frame.backend.svd(self.vectors[:, :rank] * self.unit[:, None])
        whole[:, :rank] = (left / values) @ right
        return whole

    def raw(self) -> "Spectrum":
        """Return the decomposition of the user's columns, from this one."""
        if self.is_raw:
            return self
        matrix = self.frame.backend.zeros(len(self.values), self.frame.n_features)
        matrix[:, self.frame.kept] = self.values[:, None] * self.vectors.T * self.unit
        return spectrum_of(self.frame.whole(), matrix, self.frame.backend.ones(self.frame.n_features))


def spectrum_of(frame: Frame, matrix: Float[Array, "p k"], unit: Float[Array, " k"]) -> Spectrum:
    """Decompose a matrix with the same Gram matrix as W^1/2 Phi."""
    if not matrix.shape[1]:
        return Spectrum(frame, matrix.T[:, :0], matrix[:0].sum(1), unit)
    _, values, vectors = frame.backend.svd(matrix / unit)
    values = values * (values > max(frame.n_samples, len(unit)) * EPS * values[0])
    return Spectrum(frame, vectors.T, values, unit)


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectralFactor(Factor):
    """A from singular values: h(x) = sum_j (v_j'phi)^2 / (s_j^2 + t) + |phi_perp|^2 / t, in columns / unit.

    Parameters
    ----------
    spectrum : Spectrum
        Singular values and vectors.
    strength : float
        t: the ridge, or 1 where each feature has its own ridge; the unit is then the root of that.
    gain : array of shape (r,)
        1 / (s^2 + t); 0 for directions that ridge 0 leaves undetermined.
    reader : array of shape (k, r), or None
        At ridge 0, what reads coordinates off raw columns; None at other ridges.
    """

    spectrum: Spectrum
    strength: float
    gain: Float[Array, " r"]
    reader: Float[Array, "k r"] | None = None

    def at(self, ridge: float) -> "SpectralFactor":
        """Return the factor at another ridge, without factoring the features again."""
        ridge = self._one(ridge)
        return factor_spectrum(self.spectrum if ridge == 0 else self.spectrum.raw(), ridge, ridge, self.reason)

    def unseen_leverage(self, rows: Shaped[Array, "m d"]) -> Float[Array, " m"]:
        """Return |phi_perp|^2 / t of each row, the part of h(x) outside the directions, at a ridge > 0."""
        backend = self.frame.backend
        found = backend.empty(int(rows.shape[0]))
        for part, block, _ in self.frame.blocks(rows):
            found[part] = self._split(block)[1] / self.strength
        return backend.like(found, rows)

    def logdet(self) -> float:
        """Return log det A; -inf when A is singular."""
        if self.rank < self.n_features:
            return -np.inf
        numpy = self.frame.backend.numpy
        missing = len(self.spectrum.unit) - len(self.gain)
        null = missing * np.log(self.strength) if missing else 0.0
        return float(null - np.log(numpy(self.gain)).sum() + 2 * np.log(numpy(self.spectrum.unit)).sum())

    def _one(self, ridge: Any) -> float:
        if np.ndim(self.ridge):
            raise ValueError("a spectrum with one ridge per feature cannot change its ridge; factor with one number.")
        checked = check_ridge(float(ridge))
        return float(checked)

    def _split(self, block: Array) -> tuple[Array, Array]:
        """Coordinates z = V'phi in the determined directions, and |phi_perp|^2; the block becomes phi_perp."""
        block /= self.spectrum.unit
        inner = (block @ self.spectrum.vectors) * (self.spectrum.values > 0)
        if not (self.spectrum.has_null or self.strength == 0):
            return inner, self.frame.backend.zeros(len(block))
        size = self.frame.backend.row_squares(block) if self.strength else None
        block -= inner @ self.spectrum.vectors.T
        outer = self.frame.backend.row_squares(block)
        if size is not None:
            # A tiny ridge would blow rounding up to leverages far above 1 in the row space itself.
            lost = outer <= (ROUNDING * EPS) ** 2 * (size + (self.spectrum.values[:1] ** 2).sum()) + self._mean_rounding
            block[lost], outer[lost] = 0.0, 0.0
        return inner, outer

    def _posterior(self, block: Array) -> Array:
        size = self.frame.backend.row_squares(block / self.spectrum.unit) if self.strength == 0 else None
        inner, outer = self._split(block)
        leverage = inner**2 @ self.gain
        if size is None:
            return leverage + outer / self.strength
        leverage[outer > self._tolerance(size)] = np.inf
        return leverage

    def _tolerance(self, size: Array) -> Array:
        """Largest |phi_perp|^2 that rounding can cause, in the directions and in the subtracted mean."""
        directions = max(OUTSIDE, 10 * EPS / self.rcond if self.rcond > 0 else 0.0)
        return directions**2 * size + self._mean_rounding

    @property
    def _mean_rounding(self) -> Array:
        """Squared error in a row from the rounding of the mean."""
        mean = self.frame.mean[self.frame.kept] / self.spectrum.unit
        return (8 * EPS) ** 2 * self.frame.backend.row_squares(mean[None])

    def _both(self, block: Array) -> tuple[Array, Array]:
        inner, outer = self._split(block)
        inner **= 2
        return inner @ self.gain + outer / self.strength, inner @ (self.gain * self.spectrum.values) ** 2

    def _half(self, block: Array) -> Array:
        if self.reader is not None:
            return (block @ self.reader) * self.gain**0.5
        inner, _ = self._split(block)
        half = self.frame.backend.empty(len(block), inner.shape[1] + (block.shape[1] if self._has_null else 0))
        half[:, : inner.shape[1]] = inner * self.gain**0.5
        if self._has_null:
            half[:, inner.shape[1] :] = block / self.strength**0.5
        return half

    @property
    def _has_null(self) -> bool:
        return self.spectrum.has_null and self.strength > 0

    def _solve(self, rhs: Array) -> Array:
        solution = self._slopes(rhs)
        if self._has_null:
            scaled = rhs / self.spectrum.unit[:, None]
            outer = scaled - self.spectrum.vectors @ (self.spectrum.vectors.T @ scaled)
            solution = solution + outer / self.strength / self.spectrum.unit[:, None]
        return solution

    def _slopes(self, moments: Array) -> Array:
        # What rounding puts outside the row space would be divided by the ridge.
        if self.reader is not None:
            return self.reader @ (self.gain[:, None] * (self.reader.T @ moments))
        inner = self.spectrum.vectors.T @ (moments / self.spectrum.unit[:, None])
        return self.spectrum.vectors @ (self.gain[:, None] * inner) / self.spectrum.unit[:, None]

    def _trace(self) -> float:
        return float((self.spectrum.values**2 * self.gain).sum())


def factor_spectrum(spectrum: Spectrum, strength: float, ridge: Any, reason: str) -> SpectralFactor:
    """Make a factor from a spectrum and a ridge."""
    squares = spectrum.values**2 + strength
    gain = (squares > 0) / (squares + (squares == 0))
    rank = int((squares > 0).sum())
    smallest = strength if strength and spectrum.has_null else float(squares[rank - 1]) if rank else 1.0
    rcond = (smallest / float(squares[0])) ** 0.5 if rank else 1.0
    return SpectralFactor(
        frame=spectrum.frame,
        ridge=ridge,
        rank=len(spectrum.unit) if strength else rank,
        rcond=rcond,
        error_bound=orthogonal_error(rcond),
        solver="Spectral",
        reason=reason,
        spectrum=spectrum,
        strength=float(strength),
        gain=gain,
        reader=None if strength else spectrum.reader(rank),
    )


@dataclass(frozen=True)
class Spectral:
    """Leverage from singular values: h(x) = sum_j (v_j'phi)^2 / (s_j^2 + ridge) + |phi_perp|^2 / ridge.

    For many ridges from one decomposition, for very large ridges, and for rank-deficient features at ridge 0, where a
    row outside the row space has leverage inf.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import Spectral
    >>> X = np.eye(5)[:, :3]
    >>> factor = Spectral().factor(X, fit_intercept=False)
    >>> [round(float(factor.at(ridge).leverage(X[:1])[0]), 6) for ridge in (0.0, 1.0, 3.0)]
    [1.0, 0.5, 0.25]
    """

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> SpectralFactor:
        """Factor A = Phi'W Phi + diag(ridge); at ridge 0 the columns are brought to the same length first.

        Raises
        ------
        ValueError
            If some ridges are 0 and others are > 0.

        Notes
        -----
        2 n d^2 + O(d^3) operations for n >= d, O(n^2 d) and O(n d) memory for n < d.
        """
        return factor_spectral(design_of(features, ridge, weights, fit_intercept), "asked for")


def factor_spectral(design: Design, reason: str) -> SpectralFactor:
    """Decompose a provisional design."""
    if np.ndim(design.ridge) and np.any(design.ridge) and not np.all(design.ridge):
        raise ValueError("Spectral needs ridges that are all > 0 or all 0; use QR() if only some are 0.")
    design = determined(*centred(design))
    return factor_compressed(design, _compressed(replace(design, penalty=0.0 * design.penalty)), reason)


def factor_compressed(design: Design, matrix: Float[Array, "p k"], reason: str) -> SpectralFactor:
    """Decompose a matrix with the same Gram matrix as W^1/2 Phi, and put the ridge of the design on it."""
    if not np.any(design.ridge):
        unit = power_of_two(design.backend, design.backend.row_squares(matrix.T) ** 0.5)
        return factor_spectrum(spectrum_of(design.frame, matrix, unit), 0.0, design.ridge, reason)
    if np.ndim(design.ridge):
        return factor_spectrum(spectrum_of(design.frame, matrix, design.penalty**0.5), 1.0, design.ridge, reason)
    unit = design.backend.ones(design.frame.width)
    return factor_spectrum(spectrum_of(design.frame, matrix, unit), design.ridge, design.ridge, reason)


def _compressed(design: Design) -> Float[Array, "p k"]:
    """Return a matrix with at most k rows and the same Gram matrix as W^1/2 Phi."""
    return design.dense() if design.frame.n_samples < design.frame.width else stacked_triangle(design)
