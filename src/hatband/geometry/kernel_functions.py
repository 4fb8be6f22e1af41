"""Kernels of NumPy arrays and torch tensors, in float64 on the device of the rows."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from hatband.arrays.backend import AnyBackend, NumpyBackend, backend_of
from hatband.arrays.typing import Array, Float
from hatband.checks import check_finite, check_in
from hatband.geometry.convert import as_numbers
from hatband.geometry.kernel import Kernel


class VectorKernel(Kernel):
    """A positive definite function of two vectors, on whatever device they are."""

    def rows(self, X: Any) -> Array:
        """Return X as a float64 array or tensor (n, d); ValueError where it is not finite."""
        backend = backend_of(X)
        values = backend.asarray(as_numbers(X) if isinstance(backend, NumpyBackend) else X)
        if values.ndim != 2:
            raise ValueError(f"X must have shape (n, d); got {tuple(values.shape)}.")
        if not backend.isfinite(values):
            check_finite(backend.numpy(values), "features")
        return values

    def __call__(self, rows: Any, others: Any) -> Float[Array, "m k"]:
        """Return k(x, z), shape (m, k)."""
        backend = backend_of(rows)
        return self._between(backend, backend.asarray(rows), backend.asarray(others))

    def diagonal(self, rows: Any) -> Float[Array, " m"]:
        """Return k(x, x), shape (m,)."""
        backend = backend_of(rows)
        return self._own(backend, backend.asarray(rows))

    @abstractmethod
    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        """Return k(x, z) of float64 rows."""

    def _own(self, backend: AnyBackend, rows: Array) -> Array:
        """Return k(x, x) of float64 rows: 1 for a function of the distance."""
        return backend.ones(len(rows))


@dataclass(frozen=True)
class RBFKernel(VectorKernel):
    """k(x, z) = exp(-gamma |x - z|^2).

    Parameters
    ----------
    gamma : float
        Inverse squared length.

    Notes
    -----
    Distances from a matrix product about the mean of the rows: fast, and to 1e-16 gamma |x|^2 in the exponent.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import RBFKernel
    >>> RBFKernel(gamma=1.0)(np.zeros((1, 2)), np.zeros((1, 2)))
    array([[1.]])
    """

    gamma: float = 1.0

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        centre = others.mean(0)
        left, right = rows - centre, others - centre
        squares = backend.row_squares(left)[:, None] + backend.row_squares(right) - 2 * (left @ right.T)
        return backend.exp(-self.gamma * squares.clip(0.0))


@dataclass(frozen=True)
class LaplacianKernel(VectorKernel):
    """k(x, z) = exp(-gamma sum_j |x_j - z_j|).

    Parameters
    ----------
    gamma : float
        Inverse length.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import LaplacianKernel
    >>> LaplacianKernel(gamma=1.0)(np.zeros((1, 2)), np.zeros((1, 2)))
    array([[1.]])
    """

    gamma: float = 1.0

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        return backend.exp(-self.gamma * backend.distances(rows, others, 1))


@dataclass(frozen=True)
class MaternKernel(VectorKernel):
    """k(x, z) = exp(-s), (1 + s) exp(-s) or (1 + s + s^2 / 3) exp(-s), s = sqrt(2 nu) |x - z| / length_scale.

    Parameters
    ----------
    length_scale : float
        Length.
    nu : {0.5, 1.5, 2.5}
        Smoothness.

    Notes
    -----
    Rasmussen and Williams (2006), eqs. 4.16 and 4.17.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import MaternKernel
    >>> MaternKernel(nu=1.5)(np.zeros((1, 2)), np.zeros((1, 2)))
    array([[1.]])
    """

    length_scale: float = 1.0
    nu: float = 1.5

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        check_in(self.nu, (0.5, 1.5, 2.5), "nu")
        s = backend.distances(rows, others, 2) * ((2 * self.nu) ** 0.5 / self.length_scale)
        polynomial = {0.5: 1.0, 1.5: 1 + s, 2.5: 1 + s + s**2 / 3}[self.nu]
        return polynomial * backend.exp(-s)


@dataclass(frozen=True)
class PolynomialKernel(VectorKernel):
    """k(x, z) = (gamma x'z + coef0)^degree.

    Parameters
    ----------
    gamma, coef0 : float
        Slope and offset.
    degree : int
        Exponent.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import PolynomialKernel
    >>> PolynomialKernel(degree=2)(np.ones((1, 2)), np.ones((1, 2)))
    array([[9.]])
    """

    gamma: float = 1.0
    coef0: float = 1.0
    degree: int = 3

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        return (self.gamma * (rows @ others.T) + self.coef0) ** self.degree

    def _own(self, backend: AnyBackend, rows: Array) -> Array:
        return (self.gamma * backend.row_squares(rows) + self.coef0) ** self.degree


@dataclass(frozen=True)
class LinearKernel(VectorKernel):
    """k(x, z) = x'z.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import LinearKernel
    >>> LinearKernel()(np.ones((1, 2)), np.ones((1, 2)))
    array([[2.]])
    """

    def _between(self, backend: AnyBackend, rows: Array, others: Array) -> Array:
        return rows @ others.T

    def _own(self, backend: AnyBackend, rows: Array) -> Array:
        return backend.row_squares(rows)
