"""The first step of jackknife+ and full conformal prediction: fit the estimator, describe it as a linear smoother."""

from typing import Any

from hatband.arrays.typing import Array
from hatband.checks import CalibrationWarning, warn_caller
from hatband.conformal.regressor import fit_geometry
from hatband.fitted.rows import TrainingData, fit_estimator
from hatband.fitted.smoother import Smoother, check_kernel_size
from hatband.geometry import Features
from hatband.geometry.registry import as_geometry


def fit_smoother(owner: Any, template: Any, data: TrainingData) -> tuple[Smoother, Features, Array | None]:
    """Fit a clone of the template; return it as a smoother, with the features of the rows and their weights.

    Raises
    ------
    ValueError
        If the model is not a fixed linear smoother of y, its predictions differ from those of its geometry, or a kernel
        has too many rows.
    """
    estimator, weight = fit_estimator(owner, template, data)
    geometry = as_geometry(owner.geometry, estimator)
    check_exactness(geometry.exactness, owner.allow_tuned, type(owner).__name__, type(template).__name__)
    check_kernel_size(geometry, len(data))
    space = fit_geometry(geometry, estimator, data.X, weight)
    features = space.features(data.X)
    return Smoother.of(estimator, space, features, data.y, weight), features, weight


def check_exactness(exactness: str, allow_tuned: bool, owner: str, model: str) -> None:
    """Raise unless leave-one-out in closed form is exact for a model, or the user allows tuning; warn about that."""
    if exactness == "exact":
        return
    if exactness == "none":
        raise ValueError(
            f"{owner} needs a model that is a fixed linear smoother of y, such as LinearRegression, Ridge or "
            f"KernelRidge; {model} with this geometry is not one. Use CrossConformalRegressor, which refits any model."
        )
    if not allow_tuned:
        raise ValueError(
            f"{model} must be a linear smoother that is fixed before y is seen; it was fitted with choices made on "
            f"these rows, such as a penalty or a kernel, which {owner} would have to make again for each refit. Fix "
            "them, use CrossConformalRegressor, or pass allow_tuned=True and lose the guarantee."
        )
    warn_caller(
        f"{model} was fitted with choices made on these rows: intervals hold as if they had been fixed in advance, and "
        "the coverage guarantee is lost.",
        CalibrationWarning,
    )
