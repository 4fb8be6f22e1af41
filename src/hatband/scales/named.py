"""Scales by name, and their fit on training rows as if each had not been seen."""

from collections.abc import Callable
from typing import Any

from sklearn.base import clone

from hatband.fitted.rows import NoHeldOutResiduals, TrainingRows
from hatband.scales.auto import AutoScale
from hatband.scales.base import (
    CallableScale,
    ConstantScale,
    LeverageScale,
    Scale,
    check_instance,
    fit_weighted,
    with_context,
)
from hatband.scales.laplace import LaplaceScale
from hatband.scales.learned import MagnitudeScale, QuantileScale
from hatband.scales.strength import StrengthScale

NAMED: dict[str, Callable[[], Scale]] = {
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
        If the object is not one of these, or is a class.

    Examples
    --------
    >>> as_scale("leverage")
    LeverageScale()
    """
    if isinstance(scale, str):
        if scale not in NAMED:
            raise ValueError(f"scale must be one of {sorted(NAMED)}, a Scale or a callable; got {scale!r}.")
        return with_context(NAMED[scale](), level, random_state)
    check_instance(scale)
    if all(callable(getattr(scale, method, None)) for method in ("fit", "predict")):
        return with_context(clone(scale, safe=False), level, random_state)
    if callable(scale):
        return CallableScale(scale)
    raise TypeError(
        f"scale must be one of {sorted(NAMED)}, a Scale, an object with fit(rows, residuals, sample_weight) and "
        f"predict(rows), or a callable(rows) -> width; got {type(scale).__name__}."
    )


def fit_scale(scale: Any, held_out: Callable[[], TrainingRows]) -> str | None:
    """Fit a scale, on held-out training rows if it needs any; return the source of the residuals.

    Parameters
    ----------
    scale : what `as_scale` returns
    held_out : callable() -> TrainingRows
        Called only when the scale needs residuals: they can cost refits of the model.

    Raises
    ------
    NoHeldOutResiduals
        If the scale needs held-out residuals and the model cannot give any.
    ValueError
        If the model interpolates every training row, which leaves no residual to learn from.
    TypeError
        If the rows have weights and the scale's fit takes none, or its flags say that it needs no rows and it does.

    Examples
    --------
    >>> from hatband.scales import ConstantScale
    >>> from hatband.scales.named import fit_scale
    >>> fit_scale(ConstantScale(), held_out=list)
    """
    if not getattr(scale, "needs_residuals", False):
        _fit_without_rows(scale, "which gets no rows because the scale does not declare needs_residuals = True")
        return None
    try:
        found = held_out()
    except NoHeldOutResiduals:
        if not getattr(scale, "works_without_residuals", False):
            raise
        _fit_without_rows(scale, "which the scale claims to answer: it declares works_without_residuals = True")
        return None
    if not len(found.rows) and not getattr(scale, "works_without_residuals", False):
        raise ValueError(
            f"{type(scale).__name__} learns from held-out residuals; these are not determined, because the model "
            "interpolates every training row. Give the estimator a ridge > 0 or more rows than features, "
            "or use a scale that does not learn from residuals, such as 'leverage'."
        )
    fit_weighted(scale, found.rows, found.residuals, sample_weight=found.sample_weight, role="scale")
    return found.source


def _fit_without_rows(scale: Any, why: str) -> None:
    """Call fit(None); where it fails like code that met None in the place of rows, name the flag that is wrong."""
    try:
        scale.fit(None)
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f"{type(scale).__name__}.fit(None) failed, {why}. If fit reads rows, declare needs_residuals = True and "
            f"works_without_residuals = False in the class. It said: {error}."
        ) from error
