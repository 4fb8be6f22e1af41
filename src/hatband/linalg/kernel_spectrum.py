"""Eigenvalues of a kernel matrix: leverage and residuals for many ridges from one decomposition."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS, AnyBackend
from hatband.arrays.typing import Array, Float, Shaped
from hatband.linalg.kernel import KernelCore, KernelFactor, check_kernel_ridge
from hatband.linalg.kernel_frame import KernelFrame, kernel_frame


@dataclass(frozen=True, eq=False)
class SpectralCore(KernelCore):
    """K = U diag(values) U' and a ridge; the coordinates are those of U.

    Parameters
    ----------
    backend : Backend
        Array library and device.
    vectors : array of shape (k, r)
        U, orthonormal columns; with an intercept all of them orthogonal to `unit`.
    values : array of shape (r,)
        Eigenvalues, >= 0.
    ridge : float
        Ridge.
    """

    backend: AnyBackend
    vectors: Float[Array, "k r"]
    values: Float[Array, " r"]
    ridge: float

    def project(self, products: Float[Array, "m k"]) -> tuple[Float[Array, "m r"], Float[Array, "m r"]]:
        """Return b and a = P b."""
        rotated = products @ self.vectors
        return rotated, rotated / (self.values + self.ridge)

    def image(self, coefficients: Float[Array, "m r"]) -> Float[Array, "m r"]:
        """Return K a."""
        return coefficients * self.values

    def lift(self, coefficients: Float[Array, "m r"]) -> Float[Array, "m k"]:
        """Return a in the coordinates of the frame."""
        return coefficients @ self.vectors.T

    def diagonal(self) -> Float[Array, " k"]:
        """Return P_ii."""
        return self.vectors**2 @ (1 / (self.values + self.ridge))

    def hat_diagonal(self) -> Float[Array, " k"]:
        """Return (K P)_ii."""
        return self.vectors**2 @ (self.values / (self.values + self.ridge))

    def logdet(self) -> float:
        """Return log det(K + ridge), without the direction of the intercept."""
        return float(np.log(self.backend.numpy(self.values) + self.ridge).sum())


@dataclass(frozen=True, eq=False)
class KernelSpectrum:
    """Eigenvalues and eigenvectors of a kernel matrix: one n^3 decomposition, then n^2 for each ridge.

    Parameters
    ----------
    frame : KernelFrame
        How kernel rows enter.
    vectors : array of shape (k, r)
        Eigenvectors.
    values : array of shape (r,)
        Eigenvalues, those that rounding made negative set to 0.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import KernelSpectrum
    >>> KernelSpectrum.of(np.eye(2)).training_leverage_path(np.array([1.0, 3.0]))
    array([[0.5 , 0.25],
           [0.5 , 0.25]])
    """

    frame: KernelFrame
    vectors: Float[Array, "k r"]
    values: Float[Array, " r"]

    @classmethod
    def of(cls, kernel: Shaped[Array, "n n"], weights: Any = None, fit_intercept: bool = False) -> "KernelSpectrum":
        """Decompose a kernel matrix; parameters and errors as in `factor_kernel`. About 9 n^3 operations."""
        frame, matrix = kernel_frame(kernel, weights, fit_intercept)
        if frame.unit is None:
            values, vectors = frame.backend.eigh(matrix)
            return cls(frame, vectors, values.clip(0.0))
        # Above all other eigenvalues, the direction of the intercept comes out last and apart.
        level = 2 * float(matrix.diagonal().sum()) or 1.0
        values, vectors = frame.backend.eigh(matrix + level * frame.unit[:, None] * frame.unit)
        return cls(frame, vectors[:, :-1], values[:-1].clip(0.0))

    def at(self, ridge: float) -> KernelFactor:
        """Return the factor at one ridge > 0, without a further decomposition."""
        strength = check_kernel_ridge(ridge)
        smallest, largest = (float(self.values[i]) if len(self.values) else 0.0 for i in (0, -1))
        rcond = (smallest + strength) / (largest + strength)
        core = SpectralCore(self.frame.backend, self.vectors, self.values, strength)
        return KernelFactor(
            frame=self.frame, core=core, ridge=strength, rcond=rcond, error_bound=EPS / rcond, solver="Spectral"
        )

    def leverage_path(
        self, kernel_rows: Shaped[Array, "m n"], diagonal: Shaped[Array, " m"], ridges: Shaped[Array, " L"]
    ) -> Float[Array, "m L"]:
        """Posterior leverage of rows for every ridge: m n^2 + m n L operations."""
        backend, strengths = self.frame.backend, self._ridges(ridges)
        diagonal = backend.asarray(diagonal)
        gain = 1 / (self.values[:, None] + strengths)
        result = backend.empty(int(kernel_rows.shape[0]), len(strengths))
        for block in self.frame.blocks(kernel_rows):
            squares = (block.products @ self.vectors) ** 2
            norm = self.frame.squared_norm(diagonal[block.part], block)
            # `distance` in the coordinates of the eigenvectors.
            rest = norm[:, None] - squares @ ((self.values[:, None] + 2 * strengths) * gain**2)
            result[block.part] = self.frame.floor + squares @ gain**2 + rest.clip(0.0) / strengths
        return backend.like(result, kernel_rows)

    def training_leverage_path(self, ridges: Shaped[Array, " L"]) -> Float[Array, "n L"]:
        """Leverage h(x_i) of the training rows for every ridge: n^2 L operations."""
        strengths = self._ridges(ridges)
        share = self.vectors**2 @ (self.values[:, None] / (self.values[:, None] + strengths))
        if self.frame.unit is not None:
            share = share + (self.frame.unit**2)[:, None]
        weights = self.frame.weights if self.frame.root is None else (self.frame.root**2)[:, None]
        result = self.frame.spread(share / weights)
        zeros = self.frame.zeros
        if len(zeros):
            diagonal = self.frame.unseen[np.arange(len(zeros)), zeros]
            result[zeros] = self.leverage_path(self.frame.unseen, diagonal, strengths)
        return result

    def training_complement_path(self, ridges: Shaped[Array, " L"]) -> Float[Array, "n L"]:
        """1 - w_i h(x_i) of the training rows for every ridge, accurate where it is small: n^2 L operations."""
        strengths = self._ridges(ridges)
        complement = self.frame.backend.ones(self.frame.n_samples, len(strengths))
        kept = slice(None) if self.frame.kept is None else self.frame.kept
        complement[kept] = self.vectors**2 @ (strengths / (self.values[:, None] + strengths))
        return complement

    def residual_path(self, y: Shaped[Array, "n q"], ridges: Shaped[Array, " L"]) -> Float[Array, "n q L"]:
        """Training residuals for every ridge: n^2 q L operations."""
        backend, strengths = self.frame.backend, self._ridges(ridges)
        result = backend.empty(*map(int, y.shape), len(strengths))
        for position, strength in enumerate(backend.numpy(strengths)):
            result[:, :, position] = backend.asarray(self.at(float(strength)).residuals(y))
        return backend.like(result, y)

    def _ridges(self, ridges: Any) -> Array:
        for ridge in ridges:
            check_kernel_ridge(float(ridge))
        return self.frame.backend.asarray(ridges)
