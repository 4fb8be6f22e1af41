"""Whether rows are the ones that a fitted linear model was trained on, by its normal equations."""

from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_weights
from hatband.geometry.base import Features, Space
from hatband.geometry.composite import PerOutputSpace, PreprocessedSpace
from hatband.geometry.features import FeatureSpace, selected
from hatband.geometry.model import steps_of

# A linear model's own rows give 3e-16 and one foreign row among them 6e-3; iterative solvers stop in between.
_STATIONARY = 1e-6


def is_training_sample(
    space: Space, estimator: Any, features: Features, y: Array, sample_weight: Array | None = None
) -> bool:
    """Whether |Phi_c'W e - ridge coef| <= 1e-6 |Phi_c'W y| and |sum w e| <= 1e-6 sum w |y|: true of training rows.

    Parameters
    ----------
    space : Space
        The geometry of the estimator, fitted to the rows in question.
    estimator : fitted estimator
        The model, wrapped or not.
    features : Features
        ``space.features(X)`` of these rows.
    y : array of shape (n,) or (n, q)
        Their targets.
    sample_weight : array of shape (n,), or None
        Weights that the model was fitted with.

    Returns
    -------
    bool
        False too for every model that is no linear smoother of its own inputs (exactness "none", kernels).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from hatband.geometry import geometry_of
    >>> X, y = np.array([[0.0], [1.0], [3.0]]), np.array([1.0, 0.0, 2.0])
    >>> model = Ridge().fit(X, y)
    >>> space = geometry_of(model).fit(X)
    >>> is_training_sample(space, model, space.features(X), y), is_training_sample(space, model, space.features(X), -y)
    (True, False)
    """
    spaces = _linear_spaces(space)
    if not spaces or space.exactness == "none":
        return False
    model = steps_of(estimator).model
    target = np.asarray(y, dtype=np.float64).reshape(len(features), -1)
    residual = target - np.asarray(model.predict(features.model_inputs)).reshape(target.shape)
    weights = np.ones(len(target)) if sample_weight is None else check_weights(sample_weight, len(target))
    coef = np.broadcast_to(np.atleast_2d(model.coef_), (target.shape[1], np.shape(model.coef_)[-1]))
    return all(
        _is_stationary(
            spaces[j % len(spaces)], features.values, coef[j], weights * residual[:, j], weights * target[:, j]
        )
        for j in range(target.shape[1])
    )


def _linear_spaces(space: Space) -> tuple[FeatureSpace, ...]:
    """Return the spaces, one or one per output, when all are made of the inputs of a linear model; else none."""
    inner = space.space if isinstance(space, PreprocessedSpace) else space
    parts = inner.spaces if isinstance(inner, PerOutputSpace) else (inner,)
    own = tuple(part for part in parts if isinstance(part, FeatureSpace) and part.feature_map is None)
    return own if len(own) == len(parts) else ()


def _is_stationary(space: FeatureSpace, values: Any, coef: Array, residual: Array, target: Array) -> bool:
    """Whether weighted residuals satisfy the normal equations of one output."""
    phi, mean = selected(values, space.columns), space.factor.mean
    slope = phi.T @ residual - mean * residual.sum()
    slope = slope - space.ridge * (coef if space.columns is None else coef[space.columns])
    size = np.linalg.norm(phi.T @ target - mean * target.sum())
    balanced = not space.factor.fit_intercept or abs(residual.sum()) <= _STATIONARY * np.abs(target).sum()
    return bool(balanced and np.linalg.norm(slope) <= _STATIONARY * size)
