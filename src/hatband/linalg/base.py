"""The base of solvers and factors.

Throughout: Phi (n, d) features, centred when there is an intercept; W = diag(w) weights; A = Phi'W Phi + diag(ridge).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hatband.arrays.backend import as_rows, on_host
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_finite
from hatband.linalg.design import Frame


@dataclass(frozen=True, eq=False, kw_only=True)
class Factor(ABC):
    """A factorisation of A = Phi'W Phi + diag(ridge), from which every leverage is computed: h(x) = phi' A^-1 phi.

    With an intercept phi is centred at the weighted training mean and 1/sum(w) is added. Immutable.

    Parameters
    ----------
    frame : Frame
        How raw rows enter the coordinates of the factor.
    ridge : float or array of shape (d,)
        Ridge in the sum convention, 0 for least squares.
    rank : int
        Numerical rank of A.
    rcond : float
        Reciprocal condition number of what was factored, its columns scaled to the same length.
    error_bound : float
        Bound on the relative error of the posterior leverage that rounding in the factorisation causes.
    solver : str
        Name of the solver that made it.
    reason : str
        Why that solver.
    """

    frame: Frame
    ridge: Any
    rank: int
    rcond: float
    error_bound: float
    solver: str
    reason: str

    @property
    def n_samples(self) -> int:
        """Number of training rows."""
        return self.frame.n_samples

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.frame.n_features

    @property
    def fit_intercept(self) -> bool:
        """Whether there is an unpenalised intercept."""
        return self.frame.fit_intercept

    @property
    def mean(self) -> Float[Array, " d"]:
        """Weighted mean of the training features; zeros without an intercept."""
        return self.frame.mean

    def leverage(self, rows: Shaped[Array, "m d"]) -> Float[Array, " m"]:
        """Posterior leverage h(x) = phi' A^-1 phi of each row; inf outside the row space at ridge 0."""
        return self._measure(rows, lambda block: (self._posterior(block),), 1)[0]

    def sampling_leverage(self, rows: Shaped[Array, "m d"]) -> Float[Array, " m"]:
        """Sampling leverage s(x) = phi' A^-1 Phi'W Phi A^-1 phi of each row, at most h(x).

        At ridge 0 it is the posterior form, inf outside the row space included: there the prediction is not
        determined, and the limit of s(x) for ridge -> 0 would hide that.
        """
        return self.leverages(rows)[1]

    def leverages(self, rows: Shaped[Array, "m d"]) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Posterior and sampling leverage of each row, from one pass."""
        if not np.any(self.ridge):
            posterior = self.leverage(rows)
            return posterior, posterior + 0.0
        posterior, sampling = self._measure(rows, self._both, 2)
        return posterior, sampling

    def cross_leverage(self, rows: Shaped[Array, "m d"], others: Shaped[Array, "k d"]) -> Float[Array, "m k"]:
        """Cross-leverage h(x, z) = phi(x)' A^-1 phi(z) of two sets of rows; rows are projected on the row space."""
        backend = self.frame.backend
        left, right = (backend.asarray(self.half_solve(side)) for side in (rows, others))
        return backend.like(left.T @ right + self._floor, rows)

    def half_solve(self, rows: Shaped[Array, "m d"]) -> Float[Array, "k m"]:
        """Return H with H'H = rows A^-1 rows' for centred rows: R^-T rows' where A = R'R."""
        parts = [self._half(block) + 0.0 for _, block, _ in self.frame.blocks(rows)]
        whole = self.frame.backend.empty(sum(map(len, parts)), parts[0].shape[1] if parts else self.frame.width)
        start = 0
        for part in parts:
            whole[start : start + len(part)] = part
            start += len(part)
        return self.frame.backend.like(whole.T, rows)

    def smooth(self, rows: Shaped[Array, "n d"], values: Shaped[Array, "n q"]) -> Float[Array, "n q"]:
        """Fit of the training rows, sum_j h(x_i, x_j) v_j with v_j = w_j y_j, by its slopes: O(n d) for each column."""
        backend = self.frame.backend
        values, result = backend.asarray(values), backend.empty(*map(int, values.shape))
        # The sum lets go of its blocks, so that the second pass finds their memory again.
        products = (block.T @ values[part] for part, block, _ in self.frame.blocks(rows))
        slopes = self._slopes(sum(products, backend.zeros(self.frame.width, int(values.shape[1]))))
        constant = self._floor * values.sum(0)
        for part, block, _ in self.frame.blocks(rows):
            result[part] = block @ slopes + constant
        return backend.like(result, rows)

    def solve(self, rhs: Shaped[Array, "d q"]) -> Float[Array, "d q"]:
        """Return A^-1 rhs: slopes, when rhs holds centred cross-products; 0 for dropped columns."""
        backend = self.frame.backend
        solution = backend.zeros(*rhs.shape)
        solution[self.frame.kept] = self._solve(backend.asarray(rhs)[self.frame.kept])
        return backend.like(solution, rhs)

    @abstractmethod
    def logdet(self) -> float:
        """Return log det A; -inf when A is singular."""

    def effective_dimension(self) -> float:
        """Return sum_i w_i h(x_i) = tr(A^-1 Phi'W Phi), the intercept counted as 1."""
        return self._trace() + float(self.fit_intercept)

    @property
    def _floor(self) -> float:
        return 1 / self.frame.weight if self.fit_intercept else 0.0

    def _measure(self, rows: Array, verb: Callable[[Array], tuple[Array, ...]], count: int) -> list[Array]:
        backend = self.frame.backend
        results = [backend.empty(int(rows.shape[0])) for _ in range(count)]
        rows = as_rows(rows)

        def measure(within: slice) -> None:
            with np.errstate(invalid="ignore", over="ignore"):
                for part, block, outside in self.frame.blocks(rows, within):
                    for result, values in zip(results, verb(block), strict=True):
                        result[part] = values + self._floor
                        if outside is not None:
                            result[part][outside] = np.inf

        backend.share(measure, len(results[0]), self.n_features)
        if not backend.isfinite(results[0]) and not self._are_finite(rows):
            check_finite(on_host(rows), "rows")
        return [backend.like(result, rows) for result in results]

    def _are_finite(self, rows: Array) -> bool:
        """Whether rows are finite, decided on their device, so that they are not copied to the host."""
        backend, size = self.frame.backend, self.frame.backend.block_rows(self.n_features)
        starts = range(0, int(rows.shape[0]), size)
        return all(backend.isfinite(backend.read(rows, slice(start, start + size))) for start in starts)

    @abstractmethod
    def _posterior(self, block: Array) -> Array:
        """Return phi' A^-1 phi of centred rows; may overwrite them."""

    @abstractmethod
    def _both(self, block: Array) -> tuple[Array, Array]:
        """Return both forms for centred rows; may overwrite them."""

    @abstractmethod
    def _half(self, block: Array) -> Array:
        """Return Z with Z Z' = block A^-1 block'; may overwrite the rows."""

    @abstractmethod
    def _solve(self, rhs: Array) -> Array:
        """Return A^-1 rhs in the coordinates of the frame."""

    def _slopes(self, moments: Array) -> Array:
        """Return A^-1 moments for moments Phi_c'v of the training rows, which lie in the row space."""
        return self._solve(moments)

    @abstractmethod
    def _trace(self) -> float:
        """Return tr(A^-1 Phi'W Phi)."""


@runtime_checkable
class Solver(Protocol):
    """Settings of a factorisation; `factor` carries it out."""

    def factor(
        self, features: Shaped[Array, "n d"], ridge: Any = 0.0, weights: Any = None, fit_intercept: bool = True
    ) -> Factor:
        """Factor A = Phi'W Phi + diag(ridge)."""
        ...
