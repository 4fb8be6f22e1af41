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
    >>> spectrum = KernelSpectrum.of(np.eye(2))
    >>> spectrum.at(1.0).training_leverage(), spectrum.at(3.0).training_leverage()
    (array([0.5, 0.5]), array([0.25, 0.25]))
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

    def at(self, ridge: Any) -> KernelFactor:
        """Return the factor at one ridge > 0, without a further decomposition."""
        strength = check_kernel_ridge(ridge)
        smallest, largest = (float(self.values[i]) if len(self.values) else 0.0 for i in (0, -1))
        rcond = (smallest + strength) / (largest + strength)
        core = SpectralCore(self.frame.backend, self.vectors, self.values, strength)
        return KernelFactor(
            frame=self.frame, core=core, ridge=strength, rcond=rcond, error_bound=EPS / rcond, solver="Spectral"
        )
