"""A space with other weights on its training rows: what leverage would be if some of them were known to be noisier."""

import functools
from dataclasses import replace

from hatband.arrays.typing import Array
from hatband.geometry.base import Features, Space
from hatband.geometry.composite import PreprocessedSpace
from hatband.geometry.features import FeatureSpace, selected
from hatband.geometry.kernel import KernelSpace, factored
from hatband.linalg import Auto


@functools.singledispatch
def reweighted(space: Space, features: Features, weights: Array) -> Space | None:
    """Return the space with precision Phi'W Phi + ridge; None where it has neither features nor a kernel.

    Parameters
    ----------
    space : Space
        Fitted to the training rows. Other types than those known here are added by ``reweighted.register``.
    features : Features
        The training rows, as the space sees them.
    weights : array (n,)
        W, in place of the weights that the space was fitted with.

    Returns
    -------
    Space or None
        It shares everything but the factor.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import FeatureGeometry, reweighted
    >>> space = FeatureGeometry(ridge=1.0, fit_intercept=False).fit(np.eye(2))
    >>> features = space.features(np.eye(2))
    >>> reweighted(space, features, np.array([1.0, 3.0])).leverage(features)
    array([0.5 , 0.25])
    """
    return None


@reweighted.register
def _of_features(space: FeatureSpace, features: Features, weights: Array) -> Space | None:
    rows = selected(features.values, space.columns)
    empty = space.columns is not None and not len(space.columns)
    penalty = 1.0 if empty else space.ridge
    return replace(space, factor=Auto().factor(rows, penalty, weights, space.factor.fit_intercept))


@reweighted.register
def _of_kernel(space: KernelSpace, features: Features, weights: Array) -> Space | None:
    rows = features.values
    factor = factored(space.kernel(rows, rows), space.ridge, weights, space.factor.fit_intercept)
    return replace(space, rows=rows, factor=factor, n_samples=len(features))


@reweighted.register
def _behind_transformers(space: PreprocessedSpace, features: Features, weights: Array) -> Space | None:
    inner = reweighted(space.space, features, weights)
    return None if inner is None else replace(space, space=inner)
