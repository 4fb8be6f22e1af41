"""The coordinates of a kernel factor, and the inverse of K + ridge in these coordinates.

How kernel rows enter: rows of weight 0 dropped, weights folded in, the training mean removed.

With K = Phi Phi', weights w, root = w^1/2 and unit = root / |root|, a row enters as its inner products with the
weighted and centred training rows. In these coordinates weights and intercept are gone from every later formula.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import AnyBackend, backend_of
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_finite, check_weights

# Below this w h is not taken from 1 - ridge P_ii, which would cost two digits and more.
_SMALL = 1e-2


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows in the coordinates of a kernel factor.

    Parameters
    ----------
    part : slice
        Which rows.
    products : array of shape (m, k)
        Inner products with the weighted, centred training rows.
    mean_product : array of shape (m,), or number
        Inner product of the raw row with the training mean; 0 without an intercept.
    """

    part: slice
    products: Float[Array, "m k"]
    mean_product: Any


@dataclass(frozen=True, eq=False)
class KernelFrame:
    """The map of kernel rows to the coordinates of a kernel factor.

    Parameters
    ----------
    backend : Backend
        Array library and device of the factor.
    n_samples : int
        Number of training rows, those of weight 0 included.
    weight : float
        Sum of the weights.
    kept : array of int, or None
        Training rows with a weight; None for all.
    root : array of shape (k,), or None
        Square roots of their weights; None when all are 1.
    unit : array of shape (k,), or None
        `root` scaled to length 1; None without an intercept.
    mean_column : array of shape (k,), or None
        Inner products of the weighted training rows with their mean.
    mean_square : float
        Squared norm of the training mean; 0 without an intercept.
    unseen : array of shape (p, n)
        Kernel rows of the training rows of weight 0, which the factor does not see.
    """

    backend: AnyBackend
    n_samples: int
    weight: float
    kept: Any
    root: Array | None
    unit: Array | None
    mean_column: Array | None
    mean_square: float
    unseen: Array

    @property
    def fit_intercept(self) -> bool:
        """Whether there is an unpenalised intercept."""
        return self.unit is not None

    @property
    def floor(self) -> float:
        """Part of every leverage that is due to the intercept."""
        return 1 / self.weight if self.fit_intercept else 0.0

    @property
    def zeros(self) -> np.ndarray:
        """Indices of the training rows of weight 0."""
        return np.empty(0, int) if self.kept is None else np.setdiff1d(np.arange(self.n_samples), self.kept)

    @property
    def weights(self) -> Float[Array, " k"] | float:
        """Weights of the kept rows."""
        return 1.0 if self.root is None else self.root**2

    def blocks(self, kernel_rows: Shaped[Array, "m n"]) -> Iterator[Block]:
        """Yield the rows block by block; a block is the only copy."""
        count = int(kernel_rows.shape[0])
        size = self.backend.block_rows(self.n_samples)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            yield self._enter(part, self.backend.asarray(self.backend.read(kernel_rows, part)))

    def _enter(self, part: slice, rows: Array) -> Block:
        products = (rows if self.kept is None else rows[:, self.kept]) * (1.0 if self.root is None else self.root)
        if self.unit is None:
            return Block(part, products, 0.0)
        along = products @ self.unit
        products -= self.mean_column
        products -= (products @ self.unit)[:, None] * self.unit
        return Block(part, products, along / self.weight**0.5)

    def squared_norm(self, diagonal: Float[Array, " m"], block: Block) -> Float[Array, " m"]:
        """Return the squared norm of the centred row, from k(x, x)."""
        return diagonal - 2 * block.mean_product + self.mean_square

    def inner_products(self, between: Float[Array, "m p"], block: Block, other: Block) -> Float[Array, "m p"]:
        """Return the inner products of two blocks of centred rows, from k(x, z)."""
        if self.unit is None:
            return between
        return between - block.mean_product[:, None] - other.mean_product + self.mean_square

    def spread(self, values: Float[Array, "k *q"]) -> Float[Array, "n *q"]:
        """Return values of the kept rows at their positions, with zeros at all other rows."""
        if self.kept is None:
            return values
        whole = self.backend.zeros(self.n_samples, *values.shape[1:])
        whole[self.kept] = values
        return whole

    def enter_targets(self, y: Float[Array, "n q"]) -> tuple[Float[Array, "k q"], Any]:
        """Return the weighted targets less their weighted mean, and that mean (0 without an intercept)."""
        targets = self.backend.asarray(y)
        targets = targets if self.kept is None else targets[self.kept]
        root = self.backend.ones(len(targets)) if self.root is None else self.root
        mean = (root**2 @ targets) / self.weight if self.fit_intercept else 0.0 * targets.sum(0)
        return root[:, None] * (targets - mean), mean


def kernel_frame(kernel: Any, weights: Any, fit_intercept: bool) -> tuple[KernelFrame, Float[Array, "k k"]]:
    """Check the arguments; return the frame and the kernel matrix of the weighted, centred training rows."""
    backend = backend_of(kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not kernel.shape[0]:
        raise ValueError(f"a kernel matrix must be square, training rows by training rows; got {tuple(kernel.shape)}.")
    matrix = backend.asarray(kernel)
    n_samples = int(matrix.shape[0])
    if not backend.isfinite(matrix):
        check_finite(backend.numpy(matrix), "the kernel matrix")
    checked = None if weights is None else check_weights(backend_of(weights).numpy(weights), n_samples)
    kept = None if checked is None or checked.all() else np.flatnonzero(checked)
    unseen = matrix[:0] if kept is None else matrix[np.flatnonzero(checked == 0)]
    matrix = matrix if kept is None else matrix[kept][:, kept]
    root = None if checked is None else backend.asarray(np.sqrt(checked[checked > 0]))
    if root is not None:
        matrix = root[:, None] * matrix * root
    weight = float(n_samples if checked is None else checked.sum())
    unit = None
    if fit_intercept:
        unit = (backend.ones(n_samples) if root is None else root) / weight**0.5
    matrix, column, energy = _centred(matrix, unit)
    mean_column = None if column is None else column / weight**0.5
    return KernelFrame(backend, n_samples, weight, kept, root, unit, mean_column, energy / weight, unseen), matrix


def _centred(matrix: Array, unit: Array | None) -> tuple[Array, Array | None, float]:
    """The matrix between projections away from `unit`, its image of `unit`, and its value there."""
    if unit is None:
        return matrix, None, 0.0
    column = matrix @ unit
    energy = float(unit @ column)
    half = column - 0.5 * energy * unit
    matrix = matrix - half[:, None] * unit
    matrix -= unit[:, None] * half
    # Twice: what rounding leaves along `unit` would be divided by the ridge.
    matrix -= (matrix @ unit)[:, None] * unit
    matrix -= unit[:, None] * (unit @ matrix)
    return matrix, column, energy


@dataclass(frozen=True, eq=False)
class TriangularCore:
    """K + ridge + level unit unit' = R'R, kept as R^-1.

    Parameters
    ----------
    backend : Backend
        Array library and device.
    matrix : array of shape (k, k)
        K.
    inverse : array of shape (k, k)
        R^-1.
    ridge : float
        Ridge.
    unit : array of shape (k,), or None
        Direction that the intercept takes out.
    level : float
        Eigenvalue given to it: any other than 0 does, and 0 would cost digits where 1 - w h is small.
    """

    backend: AnyBackend
    matrix: Float[Array, "k k"]
    inverse: Float[Array, "k k"]
    ridge: float
    unit: Array | None
    level: float

    def project(self, products: Float[Array, "m k"]) -> tuple[Float[Array, "m k"], Float[Array, "m k"]]:
        """Return b and a = P b."""
        half = self.backend.trmm(products + 0.0, self.inverse)
        return products, self.backend.trmm(half, self.inverse, transpose=True)

    def image(self, coefficients: Float[Array, "m k"]) -> Float[Array, "m k"]:
        """Return K a."""
        return coefficients @ self.matrix

    def lift(self, coefficients: Float[Array, "m k"]) -> Float[Array, "m k"]:
        """Return a itself."""
        return coefficients

    def diagonal(self) -> Float[Array, " k"]:
        """Return P_ii."""
        diagonal = self.backend.row_squares(self.inverse)
        return diagonal if self.unit is None else diagonal - self.unit**2 / (self.ridge + self.level)

    def hat_diagonal(self) -> Float[Array, " k"]:
        """Return (K P)_ii: 1 - unit_i^2 - ridge P_ii, and where that is small |a|^2 + |phi - Phi'a|^2 / ridge."""
        hat = 1 - self.ridge * self.diagonal() - (0.0 if self.unit is None else self.unit**2)
        small = np.flatnonzero(self.backend.numpy(hat) < _SMALL)
        for index in np.array_split(small, 1 + len(small) // 1024):
            if len(index):
                b, a = self.project(self.matrix[index])
                rest = distance(self.matrix.diagonal()[index], b, a, self.image(a))
                hat[index] = self.backend.row_squares(a) + rest / self.ridge
        return hat

    def logdet(self) -> float:
        """Return log det(K + ridge), without the direction of the intercept."""
        whole = -2 * float(np.log(abs(self.backend.numpy(self.inverse.diagonal()))).sum())
        return whole if self.unit is None else whole - float(np.log(self.ridge + self.level))


def distance(norm: Array, b: Array, a: Array, image: Array) -> Array:
    """Return |phi - Phi'a|^2 = k - 2 a'b + a'K a, at least 0; h = |a|^2 + distance / ridge.

    The value of Rasmussen and Williams 2006, eq. 2.26, in units of the ridge and without its cancellation.
    """
    return (norm - (a * (2 * b - image)).sum(1)).clip(0.0)


@dataclass(frozen=True, eq=False)
class SpectralCore:
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
