"""Checks of what decides how calibration scores become thresholds: groups, likelihood ratios, rows of a target."""

from collections.abc import Hashable
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._missing import is_pandas_na, is_scalar_nan

from hatband.arrays.typing import Array
from hatband.checks import check_likelihood_ratio


def check_labels(labels: Any, n_samples: int) -> list[Any]:
    """Return one hashable group label per row, none of them missing."""
    # As objects, because in a list of numbers and strings the numbers would become strings.
    values = np.asarray(labels, dtype=object)
    if values.shape != (n_samples,):
        raise ValueError(f"groups must have one label per row, shape ({n_samples},); got shape {values.shape}.")
    found: list[Any] = values.tolist()
    for row, label in enumerate(found):
        if not isinstance(label, Hashable):
            raise ValueError(f"groups must be labels such as strings or integers; row {row} has {label!r}.")
    # There are few labels and many rows: each label is looked at once.
    for label in set(found):
        if label is None or is_scalar_nan(label) or is_pandas_na(label):
            row = next(row for row, other in enumerate(found) if other is label)
            raise ValueError(
                f"groups must not be missing; row {row} has {label!r}. Give such rows a label of their own."
            )
    return found


def check_ratio(ratio: Any, n_samples: int) -> Array:
    """Return likelihood ratios as float64 (n,), finite and >= 0."""
    values = np.asarray(ratio, dtype=np.float64)
    if values.shape != (n_samples,):
        raise ValueError(
            f"likelihood_ratio must have one value per row, shape ({n_samples},); got shape {values.shape}."
        )
    check_likelihood_ratio(values, "likelihood_ratio")
    return values


def check_not_given(given: Any, name: str, reason: str) -> None:
    """Raise if metadata was passed that would be ignored."""
    if given is not None:
        raise ValueError(f"{name} must not be passed here: {reason}.")


def check_given(given: Any, name: str) -> None:
    """Raise if metadata is missing that calibration has."""
    if given is None:
        raise ValueError(
            f"{name} must be passed: this model is calibrated with it; got none. Pass {name}=..., one entry per row, "
            f"or give the constructor a function of X as {name}."
        )


def check_at_least(value: Any, least: int, name: str) -> int:
    """Return an integer that is at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}.")
    return int(value)


def check_columns(X: Any, column: str) -> None:
    """Raise unless X has a column of this name."""
    names = getattr(X, "columns", None)
    if names is None:
        raise ValueError(
            f"groups={column!r} names a column, so X must be a DataFrame; got {type(X).__name__}. Pass groups as a "
            "function of X, or as an array to fit, calibrate and predict_interval."
        )
    if column not in names:
        raise ValueError(f"groups={column!r} must be a column of X; its columns are {list(names)}.")


def check_merge(by: Any, small: str) -> None:
    """Raise where groups are to be merged that have no neighbours."""
    if small == "merge":
        raise ValueError(
            f"small='merge' needs groups with neighbours, that is by=LeverageBins(...); got by={by!r}. Use "
            "small='infinite' or 'pooled', or merge such groups in the labels."
        )


def check_target_rows(learner: Any, X_target: Any) -> None:
    """Raise unless rows of the target population come with what learns a likelihood ratio from them, and only then."""
    if learner is not None and X_target is None:
        raise ValueError(
            f"likelihood_ratio={learner!r} is learned from rows of the population to predict for; X_target is missing. "
            "Pass fit(X, y, X_target=...) or fit_train(X, y, X_target=...); of one that is fitted already, pass "
            "likelihood_ratio=ratio.predict."
        )
    if learner is None and X_target is not None:
        raise ValueError(
            "X_target is only used to learn a likelihood ratio, and likelihood_ratio is no learner. Leave it out, or "
            "construct with likelihood_ratio=ClassifierRatio(...)."
        )
