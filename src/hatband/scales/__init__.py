"""Scales: how the width of a band varies from row to row."""

from collections.abc import Callable
from typing import Any

from sklearn.base import clone

from hatband.scales.base import Scale
from hatband.scales.fixed import CallableScale, ConstantScale, LeverageScale

__all__ = ["CallableScale", "ConstantScale", "LeverageScale", "Scale", "as_scale"]

_NAMED: dict[str, Callable[[], Scale]] = {
    "auto": LeverageScale,
    "constant": ConstantScale,
    "leverage": LeverageScale,
}


def as_scale(scale: Any) -> Any:
    """Return an unfitted scale for a name, a Scale, an object with fit and predict, or a callable(rows) -> width.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If the object is none of these.

    Examples
    --------
    >>> as_scale("leverage")
    LeverageScale()
    """
    if isinstance(scale, str):
        if scale not in _NAMED:
            raise ValueError(f"scale must be one of {sorted(_NAMED)}, a Scale or a callable; got {scale!r}.")
        return _NAMED[scale]()
    if all(callable(getattr(scale, method, None)) for method in ("fit", "predict")):
        return clone(scale, safe=False)
    if callable(scale):
        return CallableScale(scale)
    raise TypeError(
        f"scale must be one of {sorted(_NAMED)}, a Scale, an object with fit(rows, residuals, sample_weight) and "
        f"predict(rows), or a callable(rows) -> width; got {type(scale).__name__}."
    )
