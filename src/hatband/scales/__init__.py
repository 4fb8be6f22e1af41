"""Scales: how the width of a band varies from row to row."""

from collections.abc import Callable
from typing import Any

from sklearn.base import clone

from hatband.scales.auto import AutoScale
from hatband.scales.base import Scale, with_context
from hatband.scales.fixed import CallableScale, ConstantScale, LeverageScale
from hatband.scales.magnitude import MagnitudeScale
from hatband.scales.quantile import QuantileScale
from hatband.scales.strength import StrengthScale

__all__ = [
    "AutoScale",
    "CallableScale",
    "ConstantScale",
    "LeverageScale",
    "MagnitudeScale",
    "QuantileScale",
    "Scale",
    "StrengthScale",
    "as_scale",
]

_NAMED: dict[str, Callable[[], Scale]] = {
    "auto": AutoScale,
    "constant": ConstantScale,
    "leverage": LeverageScale,
    "magnitude": MagnitudeScale,
    "quantile": QuantileScale,
    "strength": StrengthScale,
}


def as_scale(scale: Any, level: float = 0.9, random_state: Any = None) -> Any:
    """Return an unfitted scale for a name, a Scale, an object with fit and predict, or a callable(rows) -> width.

    Parameters
    ----------
    scale : str, Scale, object or callable
        What the user passed; Scales are cloned.
    level, random_state
        Of the estimator around the scale: what a scale gets whose own `level` or `random_state` is None.

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
        return with_context(_NAMED[scale](), level, random_state)
    if all(callable(getattr(scale, method, None)) for method in ("fit", "predict")):
        return with_context(clone(scale, safe=False), level, random_state)
    if callable(scale):
        return CallableScale(scale)
    raise TypeError(
        f"scale must be one of {sorted(_NAMED)}, a Scale, an object with fit(rows, residuals, sample_weight) and "
        f"predict(rows), or a callable(rows) -> width; got {type(scale).__name__}."
    )
