"""The map of rows to the coordinates of a factor, and the statistics of one pass over the training rows.

Throughout: Phi (n, d) features, centred when there is an intercept; W = diag(w) weights; A = Phi'W Phi + diag(ridge).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hatband.arrays.backend import EPS, AnyBackend, as_rows, backend_of, is_sparse, on_host
from hatband.arrays.typing import Array, Float
from hatband.checks import check_finite, check_ridge, check_weights
from hatband.linalg.sparse import FAR, refuse_large, sparse_columns, sparse_gram, sparse_shift, sparse_squares

# A spread below a few roundings of the mean counts as no spread.
CONSTANT = 4 * EPS
# A mean of up to so many standard deviations need not be subtracted before the products are formed.
NEAR = 2
# How many rows the provisional mean is taken from, and how many entries they may have.
_SAMPLE_ROWS, _SAMPLE_ENTRIES = 256, 2**20
# A row lies outside the row space when its part orthogonal to it exceeds this share of the row.
OUTSIDE = 1e-10


@dataclass(frozen=True, eq=False)
class Frame:
    """The map of a raw row to the coordinates of a factor: constant columns dropped, the mean subtracted.

    The mean is `shift + offset`: subtracted in two steps, it stays accurate where it is large against the spread.

    Parameters
    ----------
    backend : Backend
        Array library and device of the factor.
    n_samples, n_features : int
        Shape of the training features.
    weight : float
        Sum of the sample weights.
    fit_intercept : bool
        Whether there is an unpenalised intercept.
    shift : array of shape (k,), or None
        First part of the mean of the kept columns; None without an intercept.
    offset : array of shape (k,), or None
        Second part of the mean; None where it is zero.
    kept : slice or array of int
        Columns that enter the factor.
    constant : array of int, or None
        Columns that do not: constant in training and without ridge.
    level : array, or None
        Training values of the constant columns.
    """

    backend: AnyBackend
    n_samples: int
    n_features: int
    weight: float
    fit_intercept: bool
    shift: Array | None = None
    offset: Array | None = None
    kept: Any = field(default_factory=lambda: slice(None))
    constant: Array | None = None
    level: Array | None = None

    @property
    def width(self) -> int:
        """Number of columns that enter the factor."""
        return self.n_features - (0 if self.constant is None else len(self.constant))

    @property
    def mean(self) -> Float[Array, " d"]:
        """Mean of every column; zeros without an intercept."""
        mean = self.backend.zeros(self.n_features)
        if self.fit_intercept:
            mean[self.kept] = self.shift if self.offset is None else self.shift + self.offset
            if self.constant is not None:
                mean[self.constant] = self.level
        return mean

    def without(self, constant: Array, kept: Any, level: Array) -> "Frame":
        """Return the frame that drops some columns, whose training value was `level`."""
        shift, offset = (None if part is None else part[kept] for part in (self.shift, self.offset))
        return replace(self, shift=shift, offset=offset, kept=kept, constant=constant, level=level)

    def whole(self) -> "Frame":
        """Return the frame that keeps every column."""
        if self.constant is None:
            return self
        offset = None
        if self.offset is not None:
            offset = self.backend.zeros(self.n_features)
            offset[self.kept] = self.offset
        shift = self.mean if offset is None else self.mean - offset
        return replace(
            self,
            shift=shift if self.fit_intercept else None,
            offset=offset,
            kept=slice(None),
            constant=None,
            level=None,
        )

    def blocks(self, rows: Any, within: slice | None = None) -> Iterator[tuple[slice, Array, Array | None]]:
        """Yield parts of the rows in these coordinates, in ONE reused buffer, and which of them lie outside."""
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise ValueError(f"rows must have shape (m, {self.n_features}), like features; got {tuple(rows.shape)}.")
        rows = as_rows(rows)
        first, stop, _ = (within or slice(None)).indices(int(rows.shape[0]))
        size = min(self.backend.block_rows(self.n_features), stop - first)
        buffer = self.backend.block(size, self.width)
        for start in range(first, stop, max(size, 1)):
            part = slice(start, min(start + size, stop))
            source = self.backend.read(rows, part)
            yield part, self._enter(source, buffer[: part.stop - start]), self._outside(source)

    def _enter(self, source: Array, out: Array) -> Array:
        self.backend.subtract(source[:, self.kept], self.shift, out)
        if self.offset is not None:
            out -= self.offset
        return out

    def _outside(self, source: Array) -> Array | None:
        if self.constant is None or self.level is None:
            return None
        values = source[:, self.constant]
        away = abs(values - self.level)
        return (away > OUTSIDE * (abs(values) + abs(self.level))).any(1)


@dataclass(frozen=True, eq=False)
class Design:
    """Checked training features, weights and ridge, with the frame that maps them.

    Parameters
    ----------
    features : array, CSR matrix or tensor with n rows and d columns
        As the user passed them.
    root_weights : array of shape (n,), or None
        Square roots of the sample weights; None when all are 1.
    ridge : float or array of shape (d,)
        As the user passed it.
    penalty : array of shape (k,)
        Ridge of each column of the frame.
    frame : Frame
        How raw rows enter the factor.
    """

    features: Any
    root_weights: Array | None
    ridge: Any
    penalty: Array
    frame: Frame

    @property
    def backend(self) -> AnyBackend:
        """Array library of the factor."""
        return self.frame.backend

    def blocks(self) -> Iterator[Array]:
        """Yield W^1/2 Phi, centred, in one reused buffer."""
        for part, rows, _ in self.frame.blocks(self.features):
            block = rows
            if self.root_weights is not None:
                block *= self.root_weights[part, None]
            yield block

    def refuse_large_sparse(self) -> None:
        """Raise if sparse features would fill a matrix that is too large."""
        if is_sparse(self.features):
            refuse_large(self.frame.n_samples, self.frame.n_features)

    @property
    def roots(self) -> Float[Array, " n"]:
        """Square roots of the weights."""
        return self.backend.ones(self.frame.n_samples) if self.root_weights is None else self.root_weights

    @property
    def rows(self) -> int:
        """Number of rows of weight > 0."""
        return self.frame.n_samples if self.root_weights is None else int((self.root_weights > 0).sum())

    @property
    def is_plain(self) -> bool:
        """Whether the features are used unchanged: not shifted, not weighted, not converted."""
        shifted = self.frame.shift is not None and bool(self.frame.shift.any())
        return not shifted and self.root_weights is None and self.backend.is_plain(self.features)

    def dropped(self, other: "Design") -> str:
        """Return the message on the columns that another design of the same features drops."""
        count = self.frame.width - other.frame.width
        return f"{count} constant column{'s' * (count > 1)} dropped; " if count else ""

    def sparse_columns(self) -> tuple[Any, Array, Array] | None:
        """Return the weighted columns for sparse products; None for dense features."""
        if not is_sparse(self.features):
            return None
        return sparse_columns(self.features, self.roots, self.frame.shift)

    def weighted_blocks(self) -> Iterator[tuple[Array, Array]]:
        """Yield (w^1/2, W^1/2 Phi) block by block."""
        start = 0
        for block in self.blocks():
            part = slice(start, start + len(block))
            yield self.backend.ones(len(block)) if self.root_weights is None else self.root_weights[part], block
            start = part.stop

    def shifted(self, offset: Array) -> "Design":
        """Return the design with another provisional mean."""
        return replace(self, frame=replace(self.frame, shift=self.frame.shift + offset))

    def dense(self) -> Float[Array, "n k"]:
        """Return the whole of W^1/2 Phi, centred; only for fewer rows than columns."""
        self.refuse_large_sparse()
        whole, start = self.backend.empty(self.frame.n_samples, self.frame.width), 0
        for block in self.blocks():
            whole[start : start + len(block)] = block
            start += len(block)
        return whole


def design_of(features: Any, ridge: Any, weights: Any, fit_intercept: bool) -> Design:
    """Check the arguments of the user; the frame is provisional: its shift is the mean of a few rows."""
    n_samples, n_features = map(int, features.shape)
    if n_samples < 1 or n_features < 1:
        raise ValueError(f"features must have at least one row and one column; got shape {features.shape}.")
    backend, features = backend_of(features), as_rows(features)
    penalty = check_ridge(on_host(ridge))
    if np.shape(penalty) not in {(), (n_features,)}:
        raise ValueError(f"ridge must be a number or have shape ({n_features},); got shape {np.shape(penalty)}.")
    checked = None if weights is None else check_weights(on_host(weights), n_samples)
    frame = Frame(
        backend=backend,
        n_samples=n_samples,
        n_features=n_features,
        weight=float(n_samples if checked is None else checked.sum()),
        fit_intercept=fit_intercept,
        shift=_provisional_shift(backend, features, checked) if fit_intercept else None,
    )
    return Design(
        features=features,
        root_weights=None if checked is None else backend.asarray(np.sqrt(checked)),
        ridge=penalty,
        penalty=backend.asarray(np.broadcast_to(penalty, n_features).copy()),
        frame=frame,
    )


def _provisional_shift(backend: AnyBackend, features: Any, weights: np.ndarray | None) -> Float[Array, " d"]:
    sample = _sample(backend, features, weights)
    mean = _mean(sample)
    if is_sparse(features):
        return sparse_shift(features, weights, backend.asarray(mean))
    if weights is None and backend.is_plain(features) and _is_near(sample, mean):
        return backend.zeros(len(mean))
    return backend.asarray(mean)


def _sample(backend: AnyBackend, features: Any, weights: np.ndarray | None) -> np.ndarray:
    index = np.arange(features.shape[0]) if weights is None else np.flatnonzero(weights)
    count = min(_SAMPLE_ROWS, max(_SAMPLE_ENTRIES // features.shape[1], 8))
    index = index[:: max(1, len(index) // count)]
    # At once: every copy from an accelerator makes the host wait.
    return backend.numpy(backend.read(features[index], slice(None))).astype(np.float64)


def _mean(sample: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((sample == sample[0]).all(axis=0), sample[0], sample.mean(axis=0))


def _is_near(sample: np.ndarray, mean: np.ndarray) -> bool:
    """Whether all means are small against their spread: centring the Gram matrix later then costs at most two bits."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool((mean**2 <= NEAR**2 * sample.var(axis=0)).all())


def centred(design: Design) -> tuple[Design, Float[Array, " d"]]:
    """Return the design with its final mean, and the variance of its columns, from one pass over the rows."""
    squares, offset = _shifted_squares(design)
    if _is_far(design, squares, offset):
        design = design.shifted(offset)
        squares, offset = _shifted_squares(design)
    variance = squares / design.frame.weight - offset**2
    return _with_mean(design, variance, offset), variance


def centred_gram(design: Design) -> tuple[Design, Float[Array, "d d"]]:
    """Return the design with its final mean, and its Gram matrix Phi'W Phi, from one pass over the rows."""
    gram, offset = _shifted_gram(design)
    if _is_far(design, gram.diagonal(), offset):
        design = design.shifted(offset)
        gram, offset = _shifted_gram(design)
    gram -= design.frame.weight * offset[:, None] * offset
    return _with_mean(design, gram.diagonal() / design.frame.weight, offset), gram


def determined(design: Design, variance: Float[Array, " d"]) -> Design:
    """Drop columns without spread and without ridge: their coefficients are not determined."""
    backend = design.backend
    mean = backend.numpy(design.frame.mean)
    constant = (backend.numpy(design.penalty) == 0) & (backend.numpy(variance) <= (CONSTANT * mean) ** 2)
    if not constant.any():
        return design
    kept = as_slice(np.flatnonzero(~constant))
    frame = design.frame.without(np.flatnonzero(constant), kept, backend.asarray(mean[constant]))
    return replace(design, frame=frame, penalty=design.penalty[kept])


def determined_gram(design: Design, gram: Float[Array, "d d"]) -> tuple[Design, Float[Array, "k k"]]:
    """Drop columns without spread and ridge from the design and from its Gram matrix."""
    design = determined(design, gram.diagonal() / design.frame.weight)
    kept = design.frame.kept
    return design, gram if design.frame.constant is None else gram[kept][:, kept] + 0.0


def _shifted_squares(design: Design) -> tuple[Array, Array]:
    """Sums of squares and mean of the rows in the provisional frame."""
    with np.errstate(invalid="ignore", over="ignore"):
        columns = design.sparse_columns()
        squares, sums = _squares_by_blocks(design) if columns is None else sparse_squares(columns, design.roots)
    _require_finite(design, squares)
    return squares, _offset(design, sums)


def _shifted_gram(design: Design) -> tuple[Array, Array]:
    """Gram matrix and mean of the rows in the provisional frame."""
    design.refuse_large_sparse()
    with np.errstate(invalid="ignore", over="ignore"):
        columns = design.sparse_columns()
        gram, sums = _gram_by_blocks(design) if columns is None else sparse_gram(columns, design.roots)
    _require_finite(design, gram.diagonal())
    return gram, _offset(design, sums)


def _squares_by_blocks(design: Design) -> tuple[Array, Array]:
    squares, sums = design.backend.zeros(design.frame.width), design.backend.zeros(design.frame.width)
    for root, rows in design.weighted_blocks():
        sums += design.backend.weighted_sum(rows, root)
        squares += (rows * rows).sum(0)
    return squares, sums


def _gram_by_blocks(design: Design) -> tuple[Array, Array]:
    backend, width = design.backend, design.frame.width
    gram, sums = backend.zeros(width, width), backend.zeros(width)
    if design.is_plain:
        if design.frame.fit_intercept:
            sums = backend.weighted_sum(design.features, design.roots)
        return backend.mirror(backend.syrk_add(gram, design.features)), sums
    for root, block in design.weighted_blocks():
        backend.syrk_add(gram, block)
        sums += backend.weighted_sum(block, root)
    return backend.mirror(gram), sums


def _offset(design: Design, sums: Array) -> Array:
    return sums / design.frame.weight if design.frame.fit_intercept else 0.0 * sums


def _require_finite(design: Design, squares: Array) -> None:
    if not design.backend.isfinite(squares):
        check_finite(on_host(design.features), "features")
        raise ValueError("the squares of the features overflow float64; rescale the columns first.")


def _is_far(design: Design, squares: Array, offset: Array) -> bool:
    variance = squares / design.frame.weight - offset**2
    return bool((offset**2 > FAR**2 * variance).any())


def _with_mean(design: Design, variance: Array, offset: Array) -> Design:
    """Add the offset to the shift, unless the rounding of a large mean would matter against the spread."""
    frame = design.frame
    if not frame.fit_intercept:
        return design
    mean = frame.shift + offset
    far = (offset != 0) & (mean**2 > FAR**2 * variance)
    frame = replace(frame, offset=offset) if bool(far.any()) else replace(frame, shift=mean)
    return replace(design, frame=frame)


def as_slice(index: np.ndarray) -> Any:
    """Return consecutive indices as a slice, which selects without a copy."""
    if len(index) and index[-1] - index[0] == len(index) - 1:
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
