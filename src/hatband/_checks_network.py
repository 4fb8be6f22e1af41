"""Checks of what a user passes in to train a network."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


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
            f"widths must list at least one hidden layer, such as (64, 64): its output is what leverage is measured "
            f"on; got {widths!r}."
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


def check_columns(seen: int, expected: int, name: str) -> None:
    """Raise unless rows have as many columns as a network was built for."""
    if seen != expected:
        raise ValueError(f"{name} must have {expected} columns, for which the network was built; got {seen}.")


def check_some_weight(weight: Any) -> None:
    """Raise if all rows that calibration left to train on have weight 0."""
    if not (weight > 0).any():
        raise ValueError(
            f"sample_weight must not be zero for every training row; all {len(weight)} rows that the split left to "
            "train on have weight 0. Leave rows of weight 0 out, or pass another random_state."
        )
