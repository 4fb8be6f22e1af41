"""CSR features for a factorisation: the mean is a rank-one term, so the matrix stays sparse."""

from typing import Any

import numpy as np
import scipy.sparse

from hatband.arrays.typing import Array, Float

# A (d, d) Gram matrix of sparse features is formed up to this many columns.
GRAM_COLUMNS = 5_000
# Up to this ratio of |mean - shift| to the standard deviation, subtracting the mean's rank-one term from the Gram
# matrix costs two digits at most.
FAR = 10.0
# So many columns far from zero are taken out and treated as dense ones.
_DENSE_COLUMNS = 64


def sparse_shift(features: Any, weights: Array | None, provisional: Float[Array, " d"]) -> Float[Array, " d"]:
    """Return the provisional mean of columns far from zero for their spread, and 0 for all other columns."""
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
    """Raise if sparse features are too large for every factorisation here."""
    if n_features > GRAM_COLUMNS:
        raise ValueError(
            f"sparse features with more than {GRAM_COLUMNS} columns need fewer rows than columns and ridge > 0; got "
            f"{n_samples} rows and {n_features} columns. Reduce them first: a random projection "
            "(sklearn.random_projection.SparseRandomProjection) or a Nystroem sketch."
        )
