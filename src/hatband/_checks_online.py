"""Checks of what a user passes to the estimator of streams."""

from numbers import Integral, Real
from typing import Any

import numpy as np

from hatband.checks import check_ridge

# Sums of squares stay below the largest double.
_LARGEST_FEATURE = 1e140


def check_window(window: Any) -> int | None:
    """Return the number of rows that a sliding model keeps; None for all."""
    if window is None:
        return None
    return check_count(window, "window", "None for all rows, or a number of rows >= 1")


def check_count(value: Any, name: str, required: str = "an integer >= 1") -> int:
    """Return a number of rows, at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be {required}; got {value!r}.")
    return int(value)


def check_step(step: Any, name: str = "step") -> None:
    """Raise unless a step of the level is a finite number > 0."""
    number = isinstance(step, Real) and not isinstance(step, (bool, np.bool_))
    if not number or not 0 < float(step) < np.inf:
        raise ValueError(f"{name} must be finite and > 0, such as 0.005; got {step!r}.")


def check_streaming_scale(scale: Any) -> None:
    """Raise unless a scale is a function of the posterior leverage alone and learns from no residuals."""
    name = type(scale).__name__
    if not getattr(scale, "pointwise", False) or getattr(scale, "needs_residuals", False):
        raise ValueError(
            "OnlineConformalRegressor needs a scale that is a function of a row's leverage alone and has nothing to "
            f"learn from residuals; got {name}. Use scale='leverage' or 'constant'."
        )
    if getattr(scale, "form", "posterior") != "posterior":
        raise ValueError(
            f"OnlineConformalRegressor measures the posterior leverage; {name} asks for {scale.form!r}. Use "
            "LeverageScale(form='posterior')."
        )


def check_squares(features: Any) -> None:
    """Raise where squares of features could not be added up."""
    size = np.abs(features).max(axis=1, initial=0.0)
    if (size > _LARGEST_FEATURE).any():
        row = int(np.argmax(size > _LARGEST_FEATURE))
        raise ValueError(
            f"features must not exceed {_LARGEST_FEATURE:.0e} in size, for their squares to be added up; row {row} has "
            f"{size[row]:.3g}. Rescale the columns first."
        )


def check_same_outputs(n_outputs: int, expected: int) -> None:
    """Raise unless a block has as many outputs as the stream so far."""
    if n_outputs != expected:
        raise ValueError(
            f"y must have {expected} output{'s' * (expected > 1)}, as in the stream so far; got {n_outputs}. Call fit "
            "to start anew."
        )


def check_one_ridge(ridge: Any) -> float:
    """Return a ridge that must be one number, finite and >= 0."""
    if np.ndim(ridge) != 0:
        raise ValueError(f"ridge must be one number >= 0 here; got an array of shape {np.shape(ridge)}.")
    return float(check_ridge(ridge))
