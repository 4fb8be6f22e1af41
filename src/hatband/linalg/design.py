"""Training rows on their way into a factorisation: one pass gives mean, Gram matrix and constant columns."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse

from hatband.arrays.backend import EPS, AnyBackend, backend_of
from hatband.arrays.kinds import as_rows, is_sparse, on_host
from hatband.arrays.typing import Array, Float
from hatband.checks import check_finite, check_ridge, check_weights
from hatband.linalg.base import Frame

# Spread below a few roundings of the mean is no spread.
CONSTANT = 4 * EPS
# A mean of up to so many standard deviations need not be subtracted before the products are formed.
NEAR = 2
# A (d, d) Gram matrix of sparse features is formed up to this many columns.
GRAM_COLUMNS = 5_000
# Up to this ratio of |mean - shift| to the standard deviation, subtracting the mean's rank-one term from the Gram
# matrix costs two digits at most.
FAR = 10.0
# So many columns far from zero are taken out and treated as dense ones.
_DENSE_COLUMNS = 64
# How many rows the provisional mean is taken from, and how many entries they may have.
_SAMPLE_ROWS, _SAMPLE_ENTRIES = 256, 2**20


@dataclass(frozen=True, eq=False)
class Design:
    """Checked training features, weights and ridge, with the frame that they are seen in.

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
        """Raise where sparse features would fill too large a matrix."""
        if is_sparse(self.features):
            refuse_large(self.frame.n_samples, self.frame.n_features)

    @property
    def roots(self) -> Float[Array, " n"]:
        """Square roots of the weights."""
        return self.backend.ones(self.frame.n_samples) if self.root_weights is None else self.root_weights

    @property
    def rows(self) -> int:
        """Number of rows that count: those with a weight."""
        return self.frame.n_samples if self.root_weights is None else int((self.root_weights > 0).sum())

    @property
    def is_plain(self) -> bool:
        """Whether the features enter as they are: not shifted, not weighted, not converted."""
        shifted = self.frame.shift is not None and bool(self.frame.shift.any())
        return not shifted and self.root_weights is None and self.backend.is_plain(self.features)

    def dropped(self, other: "Design") -> str:
        """Say how many columns another design of the same features leaves out."""
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
        """Return W^1/2 Phi, centred, whole: for fewer rows than columns only."""
        self.refuse_large_sparse()
        whole, start = self.backend.empty(self.frame.n_samples, self.frame.width), 0
        for block in self.blocks():
            whole[start : start + len(block)] = block
            start += len(block)
        return whole


def design_of(features: Any, ridge: Any, weights: Any, fit_intercept: bool) -> Design:
    """Check what the user passed; the frame is provisional: its shift is the mean of a few rows."""
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
    """Whether no mean is large against its spread: centring the Gram matrix afterwards then costs two bits at most."""
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
    """Drop columns without spread and without ridge: no coefficient of theirs is determined."""
    backend = design.backend
    mean = backend.numpy(design.frame.mean)
    constant = (backend.numpy(design.penalty) == 0) & (backend.numpy(variance) <= (CONSTANT * mean) ** 2)
    if not constant.any():
        return design
    kept = as_slice(np.flatnonzero(~constant))
    frame = design.frame.without(np.flatnonzero(constant), kept, backend.asarray(mean[constant]))
    return replace(design, frame=frame, penalty=design.penalty[kept])


def determined_gram(design: Design, gram: Float[Array, "d d"]) -> tuple[Design, Float[Array, "k k"]]:
    """Drop the same columns from the design and its Gram matrix."""
    design = determined(design, gram.diagonal() / design.frame.weight)
    kept = design.frame.kept
    return design, gram if design.frame.constant is None else gram[kept][:, kept] + 0.0


def _shifted_squares(design: Design) -> tuple[Array, Array]:
    """Sums of squares and mean of the rows as the provisional frame shows them."""
    with np.errstate(invalid="ignore", over="ignore"):
        columns = design.sparse_columns()
        squares, sums = _squares_by_blocks(design) if columns is None else sparse_squares(columns, design.roots)
    _require_finite(design, squares)
    return squares, _offset(design, sums)


def _shifted_gram(design: Design) -> tuple[Array, Array]:
    """Gram matrix and mean of the rows as the provisional frame shows them."""
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
    """Fold the offset into the shift, unless rounding of a large mean would be felt against the spread."""
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


# ---------------------------------------------------------------- CSR features: the mean stays a rank-one term


def sparse_shift(features: Any, weights: Array | None, provisional: Float[Array, " d"]) -> Float[Array, " d"]:
    """Return the provisional mean of the columns that lie far from zero for their spread, 0 for the others."""
    share = np.full(features.shape[0], 1 / features.shape[0]) if weights is None else weights / weights.sum()
    mean = features.T @ share
    with np.errstate(invalid="ignore", over="ignore"):
        variance = features.multiply(features).T @ share - mean**2
        return np.where(mean**2 > FAR**2 * variance, provisional, 0.0)


def sparse_columns(
    features: Any, root: Float[Array, " n"], shift: Float[Array, " d"] | None
) -> tuple[Any, Array, Array] | None:
    """Return W^1/2 X without its far columns, their indices, and them, shifted and dense; None where they are many."""
    far = np.flatnonzero(shift) if shift is not None else np.arange(0)
    if len(far) > _DENSE_COLUMNS:
        return None
    near = np.ones(features.shape[1])
    near[far] = 0.0
    weighted = scipy.sparse.diags_array(root) @ features.astype(np.float64)
    dense = root[:, None] * (features[:, far].toarray() - (0.0 if shift is None else shift[far]))
    return (weighted @ scipy.sparse.diags_array(near) if len(far) else weighted).tocsr(), far, dense


def sparse_gram(columns: tuple[Any, Array, Array], root: Float[Array, " n"]) -> tuple[Array, Array]:
    """Return X'W X and W X'1 of shifted columns."""
    near, far, dense = columns
    gram, sums = (near.T @ near).toarray(), near.T @ root
    if len(far):
        cross = (near.T @ dense).T
        gram[far], gram[:, far] = cross, cross.T
        gram[np.ix_(far, far)] = dense.T @ dense
        sums[far] = dense.T @ root
    return gram, sums


def sparse_squares(columns: tuple[Any, Array, Array], root: Float[Array, " n"]) -> tuple[Array, Array]:
    """Return the diagonal of X'W X and W X'1 of shifted columns."""
    near, far, dense = columns
    squares, sums = near.multiply(near).T @ np.ones(len(root)), near.T @ root
    squares[far], sums[far] = (dense**2).sum(axis=0), dense.T @ root
    return squares, sums


def refuse_large(n_samples: int, n_features: int) -> None:
    """Raise where sparse features are too large for every factorisation here."""
    if n_features > GRAM_COLUMNS:
        raise ValueError(
            f"sparse features with more than {GRAM_COLUMNS} columns need fewer rows than columns and ridge > 0; got "
            f"{n_samples} rows and {n_features} columns. Reduce them first: a random projection "
            "(sklearn.random_projection.SparseRandomProjection) or a Nystroem sketch."
        )
