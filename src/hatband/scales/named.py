"""Scales by name, and fitting them on honest training rows when they need any."""

from collections.abc import Callable
from typing import Any

from sklearn.base import clone

from hatband.checks import check_some_residuals
from hatband.fitted.rows import NoHeldOutResiduals, TrainingRows
from hatband.scales.auto import AutoScale
from hatband.scales.base import Scale, with_context
from hatband.scales.fixed import CallableScale, ConstantScale, LeverageScale
from hatband.scales.laplace import LaplaceScale
from hatband.scales.magnitude import MagnitudeScale
from hatband.scales.quantile import QuantileScale
from hatband.scales.strength import StrengthScale

_NAMED: dict[str, Callable[[], Scale]] = {
    "auto": AutoScale,
    "constant": ConstantScale,
    "laplace": LaplaceScale,
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


def fit_scale(scale: Any, honest: Callable[[], TrainingRows]) -> str | None:
    """Fit a scale, on honest training rows if it needs any, and return where their residuals came from.

    Parameters
    ----------
    scale : what `as_scale` returns
    honest : callable() -> TrainingRows
        Called only when the scale needs residuals: they can cost refits of the model.

    Raises
    ------
    NoHeldOutResiduals
        If there are none, and the scale can do nothing without.
    ValueError
        If the model interpolates every training row, which leaves none either.

    Examples
    --------
    >>> from hatband.scales import ConstantScale, fit_scale
    >>> fit_scale(ConstantScale(), honest=list)
    """
    if not getattr(scale, "needs_residuals", False):
        scale.fit(None)
        return None
    try:
        found = honest()
    except NoHeldOutResiduals:
        if not getattr(scale, "works_without_residuals", False):
            raise
        scale.fit(None)
        return None
    if not getattr(scale, "works_without_residuals", False):
        check_some_residuals(len(found.rows), type(scale).__name__)
    scale.fit(found.rows, found.residuals, found.sample_weight)
    return found.source
