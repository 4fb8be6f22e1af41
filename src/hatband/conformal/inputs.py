"""What estimators around a regressor share at their borders: X in, predictions out, names restored on failure."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from hatband.arrays.typing import Array


def check_rows(owner: Any, X: Any, *, reset: bool) -> Any:
    """Check shape, type and column names only: the estimator decides about NaN, strings and sparse formats."""
    if callable(getattr(X, "__dataframe__", None)) or hasattr(X, "columns"):
        return validate_data(owner, X, reset=reset, skip_check_array=True)
    return validate_data(owner, X, reset=reset, dtype=None, ensure_all_finite=False, accept_sparse="csr")


@contextmanager
def input_names_kept_on_failure(owner: Any) -> Iterator[None]:
    """Give `n_features_in_` and `feature_names_in_` their old values back when fitting fails."""
    names = ("n_features_in_", "feature_names_in_")
    before = {name: vars(owner)[name] for name in names if name in vars(owner)}
    try:
        yield
    except Exception:
        for name in names:
            vars(owner).pop(name, None)
        vars(owner).update(before)
        raise


def shaped_like_target(values: Array, n_outputs: int, single: bool) -> Array:
    """Return predictions in the shape that y had: (m,) or (m, q)."""
    columns = np.asarray(values, dtype=np.float64).reshape(-1, n_outputs)
    return columns[:, 0] if single else columns
