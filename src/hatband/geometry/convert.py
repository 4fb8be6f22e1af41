"""Raw rows as numbers: what a geometry measures, and what a scale may be learned on."""

import copy
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_array

from hatband.arrays.typing import Array
from hatband.checks import check_weights

# A learned scale needs dense inputs; of sparse ones it gets this many columns.
DENSE_COLUMNS = 256


# Parameters that let scikit-learn's estimators overwrite X (and some y too) when they are False.
_KEEP_INPUTS = frozenset({"copy", "copy_X", "copy_x"})


def kept(X: Any, estimator: Any) -> Any:
    """Return rows (or targets) to hand to an estimator: X itself, or a copy where the estimator may overwrite them.

    Leverage is measured on the same rows after the estimator has been fitted to them.
    """
    settings = estimator.get_params(deep=True) if isinstance(estimator, BaseEstimator) else {}
    overwrites = any(value is False and name.rpartition("__")[2] in _KEEP_INPUTS for name, value in settings.items())
    return copy.deepcopy(X) if overwrites else X


def as_numbers(X: Any) -> Any:
    """Return rows as a float array or CSR matrix, without a copy where they are one; NaN and infinity pass."""
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype in (np.float64, np.float32) and X.size > 0:
        return X
    return check_array(X, accept_sparse="csr", dtype=[np.float64, np.float32], ensure_all_finite=False)


def input_columns(values: Any) -> Array | None:
    """Choose the columns that stand for the inputs: all (None) of dense rows, those of largest variance of CSR."""
    if not sparse.issparse(values) or values.shape[1] <= DENSE_COLUMNS:
        return None
    mean = np.asarray(values.mean(axis=0)).ravel()
    variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
    return np.sort(np.argpartition(-variance, DENSE_COLUMNS)[:DENSE_COLUMNS])


def dense_inputs(values: Any, columns: Array | None) -> Array:
    """Return the chosen columns as a dense array."""
    if not sparse.issparse(values):
        return np.asarray(values)
    return (values if columns is None else values[:, columns]).toarray()


def combined_weights(row_weights: Array | None, sample_weight: Any, n_samples: int) -> Array | None:
    """Return the user's weights times those that the model gave its own training rows; None when all are 1."""
    own = None if sample_weight is None else check_weights(sample_weight, n_samples)
    if row_weights is None:
        return own
    if len(row_weights) != n_samples:
        raise ValueError(
            f"this model weighted its own {len(row_weights)} training rows (outliers, or noise of each row), so its "
            f"geometry must be fitted to these rows; got {n_samples} rows. Fit the model on the rows that are to be "
            "the reference, or pass geometry=InputsGeometry()."
        )
    return row_weights if own is None else row_weights * own
