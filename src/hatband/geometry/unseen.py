"""What of a leverage no training row explains, where fewer directions than the rows have stand for these."""

import functools

from hatband.arrays.typing import Array, Float
from hatband.geometry.base import Features, Space
from hatband.geometry.composite import PreprocessedSpace
from hatband.geometry.nystroem import NystroemSpace


@functools.singledispatch
def unseen_leverage(space: Space, features: Features) -> Float[Array, " m"] | float:
    """Return u(x) of h(x) = s(x) + u(x): s is by the directions that a space keeps, u counts what they miss as unseen.

    Leaving a training row out changes s to s / (1 - s), and leaves u: h itself may exceed 1.

    Parameters
    ----------
    space : Space
        Fitted to training rows. Other types than those known here are added by ``unseen_leverage.register``.
    features : Features
        Rows, as the space sees them.

    Returns
    -------
    array (m,) or float
        0 where the space keeps every direction that training rows have.

    Examples
    --------
    >>> import numpy as np
    >>> from hatband.geometry import NystroemGeometry, PairwiseKernel, unseen_leverage
    >>> space = NystroemGeometry(PairwiseKernel("rbf", {"gamma": 1.0}), ridge=0.5).fit(np.array([[0.0]]))
    >>> unseen_leverage(space, space.features(np.array([[0.0], [1e3]])))  # k(x, x) / ridge far from the landmark
    array([0., 2.])
    """
    return 0.0


@unseen_leverage.register
def _of_landmarks(space: NystroemSpace, features: Features) -> Array:
    return space.unseen_leverage(features)


@unseen_leverage.register
def _of_transformed(space: PreprocessedSpace, features: Features) -> Array | float:
    return unseen_leverage(space.space, features)
