"""What a scale is: rows in, the shape of the band out."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator

from hatband.arrays.typing import Array
from hatband.checks import check_widths
from hatband.fitted.rows import Rows


class Scale(BaseEstimator, ABC):
    """The shape of a band: the interval is prediction + shift -+ threshold x width.

    A scale is fitted on honest training rows, never on calibration rows; so the calibrated interval keeps its
    guarantee whatever the scale says. Widths are defined up to one common factor.
    """

    # A function of a row's leverage alone (jackknife+ can use such a scale), and: does fit want honest residuals?
    pointwise: ClassVar[bool] = False
    needs_residuals: ClassVar[bool] = False
    # Whether fit(None) is an answer too, where honest residuals are not to be had.
    works_without_residuals: ClassVar[bool] = False

    @property
    def leverage_exponent(self) -> float | None:
        """The p of a width (1 + h)^p of posterior leverage, which bounds widths unseen; None for any other width."""
        return None

    @abstractmethod
    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Learn the band from honest training rows (None unless `needs_residuals`) and return self."""

    @abstractmethod
    def predict(self, rows: Rows) -> tuple[Any, Array]:
        """Return (shift, width): width (m, 1) or (m, q) > 0, shift 0.0 or shaped like width."""


def given(rows: Rows | None, residuals: Array | None, name: str) -> tuple[Rows, Array]:
    """Return honest rows and residuals; ValueError where a scale that learns from them got none."""
    if rows is None or residuals is None:
        raise ValueError(f"{name} learns from honest training rows and their residuals; fit got none. Pass both.")
    return rows, residuals


def band_of_one(scale: Any, rows: Rows) -> tuple[Any, Array]:
    """Return shift and width (m, 1) of a fitted scale for rows with one output; ValueError for widths that are none."""
    shift, width = scale.predict(rows)
    name = getattr(scale, "function", type(scale)).__name__
    return shift, check_widths(width, lambda: np.isinf(rows.leverage), len(rows), name)


def with_context(scale: Any, level: float, random_state: Any) -> Any:
    """Return the scale with level and random_state of the estimator around it, where it left these open."""
    parameters = scale.get_params(deep=False) if isinstance(scale, BaseEstimator) else {}
    context = {"level": level, "random_state": random_state}
    open_ones = {name: value for name, value in context.items() if name in parameters and parameters[name] is None}
    return scale.set_params(**open_ones) if open_ones else scale
