"""More features than rows: leverage from the (n, n) Gram matrix of the rows (Woodbury)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS, AnyBackend, is_sparse
from hatband.arrays.typing import Array, Float, Shaped
from hatband.linalg.base import Factor
from hatband.linalg.cholesky import cholesky_triangle, gram_error
from hatband.linalg.design import Design, centred, design_of


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Training rows P = W^1/2 Phi / unit, held as one matrix."""

    matrix: Float[Array, "n d"]

    def gram(self, backend: AnyBackend) -> Float[Array, "n n"]:
        """Return P P'."""
        return self.matrix @ self.matrix.T

    def project(self, block: Float[Array, "b d"]) -> Float[Array, "b n"]:
        """Return block P'."""
        return block @ self.matrix.T

    def combine(self, coefficients: Float[Array, "b n"]) -> Float[Array, "b d"]:
        """Return coefficients P."""
        return coefficients @ self.matrix

    @property
    def size(self) -> int:
        """Bytes held."""
        return int(self.matrix.shape[0] * self.matrix.shape[1] * 8)


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Training rows P = S - root mean', with S sparse: the mean stays a rank-one term.

    Parameters
    ----------
    matrix : CSR matrix
        S = W^1/2 X / unit.
    root : array of shape (n,)
        Square roots of the weights.
    mean : array of shape (d,)
        Weighted mean of X / unit; zeros without an intercept.
    """

    matrix: Any
    root: Float[Array, " n"]
    mean: Float[Array, " d"]

    def gram(self, backend: AnyBackend) -> Float[Array, "n n"]:
        """Return P P'."""
        gram = (self.matrix @ self.matrix.T).toarray()
        cross = self.matrix @ self.mean
        gram -= np.multiply.outer(cross, self.root)
        gram -= np.multiply.outer(self.root, cross - self.root * (self.mean @ self.mean))
        return gram

    def project(self, block: Float[Array, "b d"]) -> Float[Array, "b n"]:
        """Return block P'."""
        return np.ascontiguousarray((self.matrix @ block.T).T) - np.multiply.outer(block @ self.mean, self.root)

    def combine(self, coefficients: Float[Array, "b n"]) -> Float[Array, "b d"]:
        """Return coefficients P."""
        return (self.matrix.T @ coefficients.T).T - np.multiply.outer(coefficients @ self.root, self.mean)

    @property
    def size(self) -> int:
        """Bytes held."""
        return int(self.matrix.data.nbytes + self.matrix.indices.nbytes + self.matrix.indptr.nbytes)


@dataclass(frozen=True, eq=False, kw_only=True)
class DualFactor(Factor):
    """P P' + t I = R'R: a = (R'R)^-1 P phi and h(x) = |phi - P'a|^2 / t + |a|^2, in columns / unit. Keeps P.

    Parameters
    ----------
    training : DenseRows or SparseRows
        P = W^1/2 Phi / unit.
    inverse : array of shape (n, n)
        R^-1, upper triangular.
    unit : array of shape (d,)
        Divisor of each column.
    strength : float
        t: the ridge, or 1 where each feature has its own ridge; the unit is then the root of that.
    """

    training: DenseRows | SparseRows
    inverse: Float[Array, "n n"]
    unit: Float[Array, " d"]
    strength: float

    def logdet(self) -> float:
        """Return log det A, from det(P'P + tI) t^n = det(PP' + tI) t^d."""
        numpy, missing = self.frame.backend.numpy, self.n_features - self.n_samples
        dual = -2 * np.log(numpy(self.inverse.diagonal())).sum()
        return float(dual + missing * np.log(self.strength) + 2 * np.log(numpy(self.unit)).sum())

    def _coefficients(self, block: Array) -> Array:
        """Return a of each row; the block becomes phi - P'a."""
        block /= self.unit
        backend = self.frame.backend
        half = backend.trmm(self.training.project(block), self.inverse)
        dual = backend.trmm(half, self.inverse, transpose=True)
        block -= self.training.combine(dual)
        return dual

    def _posterior(self, block: Array) -> Array:
        return self._both(block)[0]

    def _both(self, block: Array) -> tuple[Array, Array]:
        # h is stationary in a, so that errors of a enter squared; nothing cancels.
        sampling = self.frame.backend.row_squares(self._coefficients(block))
        return self.frame.backend.row_squares(block) / self.strength + sampling, sampling

    def _half(self, block: Array) -> Array:
        dual = self._coefficients(block)
        half = self.frame.backend.empty(len(block), block.shape[1] + dual.shape[1])
        half[:, : block.shape[1]] = block / self.strength**0.5
        half[:, block.shape[1] :] = dual
        return half

    def _solve(self, rhs: Array) -> Array:
        rows = self.frame.backend.empty(*rhs.T.shape)
        rows[:] = rhs.T
        self._coefficients(rows)
        return rows.T / self.strength / self.unit[:, None]

    def _trace(self) -> float:
        return self.n_samples - self.strength * float((self.inverse**2).sum())


def factor_dual(design: Design, reason: str) -> DualFactor | None:
    """Factor a provisional design; None where P P' + t I is not positive definite to working precision."""
    backend = design.backend
    design, _ = centred(design)
    vector = bool(np.ndim(design.ridge))
    unit = design.penalty**0.5 if vector else backend.ones(design.frame.n_features)
    strength = 1.0 if vector else float(design.ridge)
    training = _sparse_rows(design, unit) if is_sparse(design.features) else DenseRows(design.dense() / unit)
    gram = training.gram(backend)
    triangle = cholesky_triangle(backend, gram, strength * backend.ones(len(gram)))
    if triangle is None or triangle.rcond <= EPS:
        return None
    return DualFactor(
        frame=design.frame,
        ridge=design.ridge,
        rank=design.frame.n_features,
        rcond=triangle.rcond,
        error_bound=gram_error(triangle.rcond),
        solver="Dual",
        reason=f"{reason}; keeps the training features ({training.size / 1e6:.3g} MB)",
        training=training,
        inverse=triangle.inverse(backend),
        unit=unit,
        strength=strength,
    )


def _sparse_rows(design: Design, unit: Array) -> SparseRows:
    root = np.ones(design.frame.n_samples) if design.root_weights is None else design.root_weights
    matrix = design.features.astype(np.float64).multiply(root[:, None]).multiply(1 / unit).tocsr()
    return SparseRows(matrix, root, design.frame.mean / unit)


@dataclass(frozen=True)
class Dual:
    """Leverage for more features than rows: a = (P P' + ridge I)^-1 P phi, h(x) = |phi - P'a|^2 / ridge + |a|^2.

    P = W^1/2 Phi. Every feature needs a ridge. The factor keeps the training features.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import Dual
    >>> X = np.eye(2, 1000)
    >>> Dual().factor(X, ridge=1.0, fit_intercept=False).leverage(X)
    array([0.5, 0.5])
    """

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> DualFactor:
        """Factor P P' + ridge I.

        Raises
        ------
        ValueError
            When a feature has no ridge.
        numpy.linalg.LinAlgError
            When the ridge is too small against P P' for working precision.

        Notes
        -----
        n^2 d + n^3/3 operations, O(n^2 + n d) memory; CSR features stay sparse.
        """
        design = design_of(features, ridge, weights, fit_intercept)
        if not np.all(design.ridge):
            raise ValueError(f"Dual needs ridge > 0 for every feature; got {design.ridge}. Use Spectral() at ridge 0.")
        factor = factor_dual(design, "asked for")
        if factor is None:
            raise np.linalg.LinAlgError(f"ridge {design.ridge} is too small for Dual(); use Spectral().")
        return factor
