"""One threshold for all outputs of a row at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.conformal.calibration.calibration import Outputs
from hatband.fitted.rows import NoHeldOutResiduals, Rows, TrainingRows


@dataclass(frozen=True, eq=False)
class JointBox(Outputs):
    """All outputs at once: the threshold of max_j score_j / spread_j, times spread_j.

    Parameters
    ----------
    spread : array (q,)
        Size of each output's scores on training rows, so that no output decides alone.

    Notes
    -----
    The maximum is one number per row, so its threshold holds for the whole row with the stated probability.
    Diquigiovanni, Fontana and Vantini (2022), *Conformal prediction bands for multivariate functional data*, with one
    spread per output.
    """

    spread: Array

    def quantile(self, scores: Array, rank: Callable[[Array], Array]) -> Array:
        """Rank the largest of each row's scores, in units of their spread."""
        return rank((scores / self.spread).max(axis=1, keepdims=True)) * self.spread


def fit_joint_box(
    scale: Any, held_out: Callable[[], TrainingRows], seen: Callable[[], tuple[Rows, Array]], level: Any
) -> JointBox:
    """Return the box that all outputs share; it takes its proportions from scores of training rows.

    Parameters
    ----------
    scale : fitted scale
    held_out : callable() -> TrainingRows
        Rows as if each had not been seen, with residuals.
    seen : callable() -> (Rows, residuals)
        The same rows as the model sees them, for a frozen model that has no held-out residuals.
    level : float
        The box is cut where the outputs hold with this probability each.
    """
    try:
        rows, residuals = held_out()[:2]
    except NoHeldOutResiduals:
        rows, residuals = seen()
    shift, width = scale.predict(rows)
    return joint_box((residuals - shift) / np.asarray(width).reshape(len(rows), -1), level)


def joint_box(scores: Array, level: Any) -> JointBox:
    """Return the box of the proportions of scores (n, q) of training rows; see `fit_joint_box`."""
    sizes = np.abs(scores)
    defined = np.isfinite(sizes).all(axis=1)
    spread = np.quantile(sizes[defined], float(level), axis=0) if defined.any() else np.ones(sizes.shape[1])
    # An output that the model knows exactly has no size of its own; any positive one keeps the guarantee.
    return JointBox(np.where(spread > 0, spread, np.where(spread.max() > 0, spread.max(), 1.0)))
