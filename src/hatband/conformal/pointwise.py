"""Widths of scales that look at nothing but leverage, so that they can be had for a model that was never refitted."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_widths
from hatband.fitted.rows import Rows


def widths_at(
    scale: Any, shape: tuple[int, ...], leverage: Callable[[], Array], sampling: Callable[[], Array]
) -> Array:
    """Return the width of a fitted pointwise scale at leverages of this shape, (m,), (m, q) or (m, n), in that shape.

    Neither form of leverage is computed before the scale asks for it.
    """
    rows = Rows(
        math.prod(shape),
        inputs=_unavailable,
        leverage=lambda: leverage().ravel(),
        sampling_leverage=lambda: sampling().ravel(),
        prediction=_unavailable,
    )
    _, width = scale.predict(rows)
    return check_widths(width, lambda: np.isinf(rows.leverage), len(rows), type(scale).__name__).reshape(shape)


def _unavailable() -> Array:
    raise ValueError(
        "a pointwise scale looks at the leverage of a row alone; this one asks for its inputs or prediction. Declare "
        "it pointwise = False and use CrossConformalRegressor."
    )
