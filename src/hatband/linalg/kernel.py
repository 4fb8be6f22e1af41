"""Leverage from a kernel matrix: h(x) = (k(x, x) - k_x' C k_x) / ridge with C = (K + ridge W^-1)^-1.

Computed as |a|^2 + |phi - Phi'a|^2 / ridge, which never cancels below |a|^2: errors in a enter squared. K is here the
kernel matrix of the weighted, centred training rows (`kernel_frame`), P = (K + ridge)^-1 restricted to vectors
orthogonal to `unit` when there is an intercept, and a = P b for a row with inner products b. `factor_kernel` makes P by
Cholesky, `KernelSpectrum` for many ridges from one decomposition.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS
from hatband.arrays.typing import Array, Float, Shaped
from hatband.checks import check_finite, check_ridge
from hatband.linalg.kernel_frame import Block, KernelFrame, SpectralCore, TriangularCore, distance, kernel_frame


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelFactor:
    """A factorisation of a kernel matrix, from which every leverage is computed. Immutable; made by `factor_kernel`.

    Cross-leverages carry no weights: h(x, z) = phi(x)' A^-1 phi(z), A = Phi'W Phi + ridge. The prediction at x is
    sum_i w_i h(x, x_i) y_i, the sampling form sum_i w_i h(x, x_i)^2. With an intercept 1 / sum(w) is part of both.

    Parameters
    ----------
    frame : KernelFrame
        How kernel rows enter.
    core : TriangularCore or SpectralCore
        The factorisation.
    ridge : float
        Ridge in the sum convention, > 0.
    rcond : float
        Reciprocal condition number of K + ridge.
    error_bound : float
        Bound eps / rcond on the relative error of a; the leverage is far more accurate.
    solver : str
        Name of the factorisation.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import factor_kernel
    >>> factor = factor_kernel(np.eye(3), ridge=0.5)
    >>> bool(np.allclose(factor.training_leverage(), 1 / 1.5))
    True
    """

    frame: KernelFrame
    core: TriangularCore | SpectralCore
    ridge: float
    rcond: float
    error_bound: float
    solver: str

    @property
    def n_samples(self) -> int:
        """Number of training rows."""
        return self.frame.n_samples

    @property
    def fit_intercept(self) -> bool:
        """Whether there is an unpenalised intercept."""
        return self.frame.fit_intercept

    def leverage(self, kernel_rows: Shaped[Array, "m n"], diagonal: Shaped[Array, " m"]) -> Float[Array, " m"]:
        """Posterior leverage of rows with kernels k(x, x_i) and k(x, x); tends to k(x, x) / ridge far away.

        2 m n^2 operations, in blocks: no copy of the rows beyond a block.
        """
        return self.leverages(kernel_rows, diagonal)[0]

    def sampling_leverage(self, kernel_rows: Shaped[Array, "m n"]) -> Float[Array, " m"]:
        """Sampling leverage sum_i w_i h(x, x_i)^2; without an intercept it tends to 0 far away."""
        backend = self.frame.backend
        result = backend.empty(int(kernel_rows.shape[0]))
        for block in self.frame.blocks(kernel_rows):
            result[block.part] = self.frame.floor + backend.row_squares(self.core.project(block.products)[1])
        return self._checked(result, kernel_rows)

    def leverages(
        self, kernel_rows: Shaped[Array, "m n"], diagonal: Shaped[Array, " m"]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Posterior and sampling leverage from one pass."""
        backend, diagonal = self.frame.backend, self.frame.backend.asarray(diagonal)
        posterior, sampling = (backend.empty(int(kernel_rows.shape[0])) for _ in range(2))
        for block in self.frame.blocks(kernel_rows):
            b, a = self.core.project(block.products)
            norm = self.frame.squared_norm(diagonal[block.part], block)
            sampling[block.part] = self.frame.floor + backend.row_squares(a)
            posterior[block.part] = sampling[block.part] + distance(norm, b, a, self.core.image(a)) / self.ridge
        return self._checked(posterior, kernel_rows), self._checked(sampling, kernel_rows)

    def _checked(self, result: Array, kernel_rows: Array) -> Array:
        if not self.frame.backend.isfinite(result):
            check_finite(self.frame.backend.numpy(self.frame.backend.asarray(kernel_rows)), "kernel rows")
        return self.frame.backend.like(result, kernel_rows)

    def smoother(self, kernel_rows: Shaped[Array, "m n"]) -> Float[Array, "m n"]:
        """Cross-leverage h(x, x_i) to every training row, those of weight 0 included."""
        frame = self.frame
        result = frame.backend.empty(int(kernel_rows.shape[0]), self.n_samples)
        kept = slice(None) if frame.kept is None else frame.kept
        for block in frame.blocks(kernel_rows):
            a = self.core.lift(self.core.project(block.products)[1])
            result[block.part, kept] = frame.floor + (a if frame.root is None else a / frame.root)
        if len(frame.zeros):
            between = frame.backend.asarray(kernel_rows)[:, frame.zeros]
            result[:, frame.zeros] = frame.backend.asarray(self.cross_leverage(kernel_rows, frame.unseen, between))
        return frame.backend.like(result, kernel_rows)

    def cross_leverage(
        self,
        kernel_rows: Shaped[Array, "m n"],
        others: Shaped[Array, "p n"],
        between: Shaped[Array, "m p"],
    ) -> Float[Array, "m p"]:
        """Cross-leverage h(x, z) of two sets of rows, from their kernel rows and k(x, z)."""
        backend = self.frame.backend
        result, between = backend.empty(*map(int, between.shape)), backend.asarray(between)
        for block in self.frame.blocks(kernel_rows):
            for other in self.frame.blocks(others):
                result[block.part, other.part] = self._cross(block, other, between[block.part, other.part])
        return backend.like(result, kernel_rows)

    def _cross(self, block: Block, other: Block, between: Array) -> Array:
        """The bilinear form of `distance`."""
        (b, a), (d, c) = self.core.project(block.products), self.core.project(other.products)
        rest = self.frame.inner_products(between, block, other) - a @ d.T - (b - self.core.image(a)) @ c.T
        return self.frame.floor + a @ c.T + rest / self.ridge

    def training_complement(self) -> Float[Array, " n"]:
        """1 - w_i h(x_i) = ridge P_ii of the training rows, without cancellation where h is close to 1 / w.

        `residuals` over it are the leave-one-out residuals: Rasmussen and Williams (2006), equation 5.12.
        """
        complement = self.frame.backend.ones(self.n_samples)
        complement[slice(None) if self.frame.kept is None else self.frame.kept] = self.ridge * self.core.diagonal()
        return complement

    def training_leverage(self) -> Float[Array, " n"]:
        """Leverage h(x_i) of the training rows. n^3 / 3 operations less than by `leverage`."""
        share = self.core.hat_diagonal() + (0.0 if self.frame.unit is None else self.frame.unit**2)
        result = self.frame.spread(share / self.frame.weights)
        zeros = self.frame.zeros
        if len(zeros):
            diagonal = self.frame.unseen[np.arange(len(zeros)), zeros]
            result[zeros] = self.leverage(self.frame.unseen, diagonal)
        return result

    def solve(self, y: Shaped[Array, "n q"]) -> tuple[Float[Array, "n q"], Float[Array, " q"]]:
        """Dual coefficients and intercept: the prediction at x is sum_i k(x, x_i) dual_i + intercept."""
        targets, mean = self.frame.enter_targets(y)
        scaled = self._solve(targets)
        shift = 0.0 if self.frame.mean_column is None else self.frame.mean_column @ scaled
        dual = self.frame.spread(scaled if self.frame.root is None else self.frame.root[:, None] * scaled)
        return self.frame.backend.like(dual, y), self.frame.backend.like(mean - shift, y)

    def _solve(self, targets: Array) -> Array:
        return self.core.lift(self.core.project((targets + 0.0).T + 0.0)[1]).T

    def residuals(self, y: Shaped[Array, "n q"]) -> Float[Array, "n q"]:
        """Training residuals e_i = ridge dual_i / w_i, without a difference of close numbers."""
        frame = self.frame
        scaled = self.ridge * self._solve(frame.enter_targets(y)[0])
        result = frame.spread(scaled if frame.root is None else scaled / frame.root[:, None])
        if len(frame.zeros):
            dual, intercept = map(frame.backend.asarray, self.solve(y))
            result[frame.zeros] = frame.backend.asarray(y)[frame.zeros] - frame.unseen @ dual - intercept
        return frame.backend.like(result, y)

    def logdet(self) -> float:
        """Log det(W^1/2 K W^1/2 + ridge) over rows with a weight; with an intercept orthogonal to w^1/2."""
        return self.core.logdet()

    def effective_dimension(self) -> float:
        """Return sum_i w_i h(x_i), the intercept counted as 1."""
        return float(self.core.hat_diagonal().sum()) + float(self.fit_intercept)


def factor_kernel(
    kernel: Shaped[Array, "n n"], ridge: Any, weights: Any = None, fit_intercept: bool = False
) -> KernelFactor:
    """Factor K + ridge W^-1 by Cholesky, for h(x) = (k(x, x) - k_x' C k_x) / ridge.

    Parameters
    ----------
    kernel : array or tensor
        Kernel matrix of the training rows, symmetric and positive semi-definite; only read, and kept by reference when
        it is float64 and there are neither weights nor an intercept.
    ridge : float
        Ridge in the sum convention, > 0.
    weights : array, optional
        Sample weights; a row of weight 0 counts as absent.
    fit_intercept : bool
        Whether there is an unpenalised intercept.

    Returns
    -------
    KernelFactor
        It keeps two n x n matrices, the kernel among them (6.4 GB at n = 20,000); while it is made there are three
        beside `kernel`, four with weights or an intercept.

    Raises
    ------
    ValueError
        If the ridge is not a number > 0, or the matrix is not square or not finite.
    numpy.linalg.LinAlgError
        If K + ridge is not positive definite to working precision.

    Notes
    -----
    2 n^3 / 3 operations. With an intercept the kernel is doubly centred and 1 / sum(w) added, which equals the bordered
    system [[K + ridge W^-1, 1], [1', 0]] and loses no digits to a large mean.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.linalg import factor_kernel
    >>> factor = factor_kernel(np.eye(3), ridge=0.5)
    >>> factor.leverage(np.zeros((1, 3)), np.ones(1))  # k(x, x) / ridge, unrelated to the training rows
    array([2.])
    """
    strength = check_kernel_ridge(ridge)
    frame, matrix = kernel_frame(kernel, weights, fit_intercept)
    backend, unit = frame.backend, frame.unit
    level = float(matrix.diagonal().mean()) if fit_intercept else 0.0
    shifted = matrix + 0.0 if unit is None else matrix + level * unit[:, None] * unit
    backend.set_diagonal(shifted, shifted.diagonal() + strength)
    norm = float(abs(shifted).sum(0).max())
    upper = backend.cholesky(shifted)
    if upper is None:
        raise np.linalg.LinAlgError(
            f"K + ridge is not positive definite to working precision (ridge {strength:.3g}, largest diagonal "
            f"{float(matrix.diagonal().max()):.3g}). If K is a kernel matrix, KernelSpectrum.of(K).at(ridge) can still "
            "use it, or take a larger ridge."
        )
    rcond = backend.rcond_cholesky(upper, norm)
    core = TriangularCore(backend, matrix, backend.tri_inv(upper), strength, unit, level)
    return KernelFactor(
        frame=frame, core=core, ridge=strength, rcond=rcond, error_bound=EPS / max(rcond, EPS**2), solver="Cholesky"
    )


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


def check_kernel_ridge(ridge: Any) -> float:
    """Return the ridge as a float; ValueError unless it is one number > 0."""
    strength = check_ridge(ridge)
    if np.ndim(strength) or strength == 0:
        raise ValueError(
            f"kernel leverage needs one ridge > 0 (at 0 a kernel interpolates: training rows have leverage 1, all "
            f"other rows infinity); got {ridge!r}."
        )
    return float(strength)
