"""Checks of what is handed to a bridge to another package, and their messages."""

import inspect
from typing import Any

import numpy as np

from hatband.arrays.typing import Array


def check_gives_widths(model: Any, owner: str) -> None:
    """Raise unless a model predicts with a standard deviation on request."""
    predict = getattr(model, "predict", None)
    if predict is None or "return_std" not in inspect.signature(predict).parameters:
        raise TypeError(
            f"{owner} needs a fitted model whose predict takes return_std, such as a SplitConformalRegressor after "
            f"fit_train; got {model!r}. Wrap a regressor: SplitConformalRegressor(regressor).fit_train(X, y)."
        )


def check_plain_target(plain: bool, model: Any) -> None:
    """Raise where scores are formed on another scale than that of y."""
    if not plain:
        raise ValueError(
            "a bridge needs a model that predicts y itself, because the other package forms its scores from y; "
            f"the estimator of {type(model).__name__} learns a transformed target. Transform y before "
            "both packages see it."
        )


def check_one_column(values: Any, n_samples: int, name: str) -> Array:
    """Return one number per row as float64 (m,)."""
    columns = np.asarray(values, dtype=np.float64)
    if columns.shape not in ((n_samples,), (n_samples, 1)):
        raise ValueError(
            f"a bridge carries one output; {name} has shape {columns.shape} for {n_samples} rows. Fit one model for "
            "each output."
        )
    return columns.reshape(n_samples)


def check_finite_widths(width: Array) -> Array:
    """Return widths (m,); raise for infinite ones, which other packages multiply by scores of 0."""
    infinite = np.isinf(width)
    if infinite.any():
        raise ValueError(
            f"widths must be finite here; {infinite.sum()} of {len(width)} rows lie outside the span of the training "
            f"rows (the first is row {int(infinite.argmax())}) and have infinite leverage. Give the estimator a ridge "
            "> 0, or take intervals from predict_interval of the model itself."
        )
    return width
