"""Checks of what a user passes in to train a network."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_finite


def check_at_least(value: Any, least: int, name: str) -> int:
    """Return an integer that must not be below `least`."""
    if not isinstance(value, Integral) or isinstance(value, (bool, np.bool_)) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}; got {value!r}.")
    return int(value)


def check_between(value: Any, low: float, high: float, name: str, *, low_allowed: bool = True) -> float:
    """Return a number in [low, high), or in (low, high) where `low` itself is not allowed."""
    number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
    if not number or not low <= float(value) < high or (float(value) == low and not low_allowed):
        raise ValueError(f"{name} must be a number in {'[' if low_allowed else '('}{low}, {high}); got {value!r}.")
    return float(value)


def check_widths_of_layers(widths: Any) -> tuple[int, ...]:
    """Return the widths of the hidden layers, one at least: the last one holds the features."""
    if not isinstance(widths, Sequence) or isinstance(widths, str) or len(widths) == 0:
        raise ValueError(
            "widths must be a tuple or list with the width of at least one hidden layer, such as (64, 64): the output "
            f"of the last one is what leverage is measured on; got {widths!r}."
        )
    return tuple(check_at_least(width, 1, "widths") for width in widths)


def check_validation_size(validation_size: Any, n_samples: int) -> int:
    """Return how many of n_samples rows are held out; a fraction is rounded, to 1 at least."""
    if isinstance(validation_size, Integral) and not isinstance(validation_size, bool):
        size = check_at_least(validation_size, 0, "validation_size")
    else:
        fraction = check_between(validation_size, 0.0, 1.0, "validation_size")
        size = max(1, round(n_samples * fraction)) if fraction else 0
    if size >= n_samples:
        raise ValueError(
            f"validation_size={validation_size!r} holds out {size} of n_samples = {n_samples} rows, which leaves none "
            "to train on; pass more rows, or validation_size=0 to train without early stopping."
        )
    return size


def check_outputs(shape: tuple[int, ...], expected: tuple[int, ...], name: str) -> None:
    """Raise unless a network answered with one value per row and output: it must never broadcast against y."""
    if shape != expected:
        raise ValueError(
            f"{name} must return one value per row and output, shape {expected} like y; got shape {shape}."
        )


def check_columns(shape: tuple[int, ...], expected: int, name: str) -> None:
    """Raise unless rows have as many columns as a network was built for."""
    if len(shape) != 2 or shape[1] != expected:
        raise ValueError(
            f"{name} must have shape (n, {expected}), the columns for which the network was built; got shape {shape}."
        )


def check_standardisable(mean: Array, scale: Array, limits: tuple[float, float], name: str) -> None:
    """Raise unless the numbers of a network can hold mean and spread of every column."""
    low, high = limits
    bad = ~((np.abs(mean) < high) & (scale > low) & (scale < high))
    if bad.any():
        j = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"column {j} of {name} must have a finite mean and a spread that the network can divide by, from {low:.0e} "
            f"to {high:.0e}; its mean is {mean[j]:.3g} and its standard deviation {scale[j]:.3g}. Drop rows that hold "
            "NaN or infinity, and rescale the column."
        )


def check_callback(progress: Any) -> None:
    """Raise unless what hears of every epoch can be called."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a callable(epoch) or None; got {progress!r}.")


def check_some_weight(weight: Any) -> None:
    """Raise if all rows that calibration left to train on have weight 0."""
    if not (weight > 0).any():
        raise ValueError(
            f"sample_weight must not be zero for every training row; all {len(weight)} rows that the split left to "
            "train on have weight 0. Leave rows of weight 0 out, or pass another random_state."
        )


def check_leverages(leverage: Any, name: str) -> Array:
    """Return leverages as float64: of one row at least, finite and >= 0."""
    try:
        values = np.asarray(leverage, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers; {error}.") from None
    if not values.ndim or not values.size:
        raise ValueError(f"{name} must hold at least one row; got shape {values.shape}.")
    check_finite(values.T, name)
    if (values < 0).any():
        raise ValueError(f"{name} must be >= 0, as leverages are; got {values.min():.3g}.")
    return values


def checked_noise(deviation: Any, n_rows: int) -> Array:
    """Return what a noise function said of a batch; ValueError unless it is a standard deviation for each row."""
    if deviation is None:
        raise ValueError("noise must return standard deviations; got None.")
    if deviation.ndim not in {1, 2} or len(deviation) != n_rows:
        raise ValueError(
            f"noise must return one standard deviation per row, shape ({n_rows},) or ({n_rows}, outputs); got shape "
            f"{deviation.shape}."
        )
    bad = ~(np.isfinite(deviation) & (deviation > 0))
    if bad.any():
        row = int(np.flatnonzero(bad.reshape(n_rows, -1).any(axis=1))[0])
        raise ValueError(
            f"noise must return standard deviations that are finite and > 0; row {row} of a batch has {deviation[row]}."
        )
    return deviation
