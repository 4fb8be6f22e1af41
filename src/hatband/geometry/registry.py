"""Which geometry a fitted model has: a registry that users extend."""

import functools
from collections.abc import Callable
from typing import Any

from sklearn.utils.validation import check_is_fitted

from hatband.geometry.base import Geometry
from hatband.geometry.inputs import InputsGeometry, TransformerGeometry


@functools.singledispatch
def geometry_of(estimator: Any) -> Geometry:
    """Return the geometry of a fitted estimator: its features or kernel, ridge and intercept, read once.

    The table in the docstring of ``hatband.geometry`` says what is read from which estimator. Estimators that are not
    in it, and their subclasses, get ``InputsGeometry()``. ``geometry_of.register(Model, function)`` adds one's own;
    the function takes the fitted model and returns a Geometry that can be pickled (no lambda in it).

    Parameters
    ----------
    estimator : fitted estimator
        Any regressor, also inside a Pipeline, a search, FrozenEstimator, TransformedTargetRegressor.

    Returns
    -------
    Geometry
        A recipe; ``fit(X)`` measures training rows.

    Raises
    ------
    NotFittedError
        When a registered estimator is not fitted.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> geometry_of(Ridge(alpha=3.0).fit([[0.0], [1.0]], [0.0, 1.0])).ridge
    3.0
    """
    return InputsGeometry()


def geometry_for(*models: type) -> Callable[[Callable[[Any], Geometry]], Callable[[Any], Geometry]]:
    """Register a function for several models; it is called with fitted ones only."""

    def register(function: Callable[[Any], Geometry]) -> Callable[[Any], Geometry]:
        @functools.wraps(function)
        def of_fitted(estimator: Any) -> Geometry:
            check_is_fitted(estimator)
            return function(estimator)

        for model in models:
            geometry_of.register(model, of_fitted)
        return function

    return register


def as_geometry(geometry: Any, estimator: Any) -> Geometry:
    """Return the geometry that a user asked for.

    Parameters
    ----------
    geometry : "auto", Geometry, or scikit-learn transformer
        "auto" reads it from the estimator; a transformer is cloned and fitted to the X that the estimator got, its
        output standardised, with ridge 1 and an intercept.
    estimator : fitted estimator
        The model.

    Returns
    -------
    Geometry
        A recipe; ``fit(X)`` measures training rows.

    Raises
    ------
    TypeError
        When `geometry` is none of these.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import Ridge
    >>> type(as_geometry(PCA(2), Ridge())).__name__
    'TransformerGeometry'
    """
    if isinstance(geometry, Geometry):
        return geometry
    if isinstance(geometry, str) and geometry == "auto":
        return geometry_of(estimator)
    if not isinstance(geometry, type) and hasattr(geometry, "fit") and hasattr(geometry, "transform"):
        return TransformerGeometry(geometry)
    raise TypeError(
        'geometry must be "auto", a hatband Geometry such as InputsGeometry(), or a scikit-learn transformer such as '
        f"PCA(10); got {geometry!r}."
    )
