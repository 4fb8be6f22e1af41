"""The scale that chooses between scales."""

import warnings
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state

from hatband._typing import Array
from hatband._validation import LeverageWarning, check_confidence_level
from hatband.rows import Rows
from hatband.scales.base import Scale, with_context
from hatband.scales.columns import outputs
from hatband.scales.fixed import ConstantScale, LeverageScale
from hatband.scales.magnitude import MagnitudeScale
from hatband.scales.quantile import DEFAULT_LEVEL, QuantileScale
from hatband.scales.selection import (
    best_of_its_kind,
    out_of_fold,
    scores_at_own_threshold,
    simplest_within_one_error,
    trial_version,
)
from hatband.scales.strength import StrengthScale

FEWEST_ROWS = 100
MOST_ROWS = 20_000
FOLDS = 3
TRIAL_TREES = 30


def default_candidates() -> dict[str, Scale]:
    """Return the candidates of `AutoScale`, the simpler first: by leverage, constant, learned from few, from all.

    Fixed leverage comes after its estimated strength, which contains it: it is not to win by being simpler.
    """
    few = ("leverage", "prediction")
    return {
        "strength": StrengthScale(),
        "leverage": LeverageScale(),
        "constant": ConstantScale(),
        "sampling strength": StrengthScale(form="sampling"),
        "magnitude (leverage, prediction)": MagnitudeScale(columns=few),
        "magnitude": MagnitudeScale(),
        "quantile (leverage, prediction)": QuantileScale(columns=few),
        "quantile": QuantileScale(),
    }


def _kind(scale: Scale) -> tuple[str, ...]:
    """Return what makes a scale simple: its type, or the columns that it learns from."""
    match scale:
        case MagnitudeScale() | QuantileScale():
            return scale.columns
        case _:
            return (repr(scale),)


class AutoScale(Scale):
    """The scale with the smallest cross-validated mean interval score on honest training residuals, simpler ones first.

    Chosen by the one-standard-error rule from constant, leverage, its strength, and learned magnitudes and quantiles;
    for each output by itself. No calibration row is used, so the guarantee of the calibrated interval is untouched.

    Parameters
    ----------
    candidates : dict of name -> Scale, or None, default=None
        The simpler first. None: strength, leverage, constant, strength of the sampling form, then magnitudes and
        quantiles learned from (leverage, prediction) and from (leverage, prediction, inputs).
    level : float or None, default=None
        Level of the interval score. None: the first confidence level of the estimator around the scale, else 0.9.
    random_state : int, RandomState or None, default=None
        Draws the folds, the rows beyond 20,000, and the forests. None: that of the estimator around the scale.

    Attributes
    ----------
    scales_ : list of fitted scales
        The choice for each output, fitted to all rows.
    report_ : list of dict
        One entry for each output and candidate: output, candidate, score (mean interval score, in the units of the
        residuals), excess over the best candidate, its standard_error, and whether it was chosen. With fewer than 100
        rows, or no honest residuals, one entry that says why the leverage scale is used.

    Raises
    ------
    ValueError
        If the level is not inside (0, 1).

    Notes
    -----
    Three folds; forests of 30 trees for the choice and of 100 for the scale chosen. Magnitudes and quantiles learned
    from the same columns count as equally simple: the better is taken. Cost: about that of six boosted quantile
    regressions; at most 20,000 rows take part in the choice.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from hatband import AutoScale, SplitConformalRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SplitConformalRegressor(scale=AutoScale(), random_state=0).fit(X, y)
    >>> [entry["candidate"] for entry in model.scale_.report_][:3]
    ['strength', 'leverage', 'constant']
    """

    needs_residuals: ClassVar[bool] = True
    works_without_residuals: ClassVar[bool] = True

    def __init__(
        self, candidates: dict[str, Scale] | None = None, *, level: float | None = None, random_state: Any = None
    ) -> None:
        self.candidates = candidates
        self.level = level
        self.random_state = random_state

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Choose and fit on honest training rows and residuals (n, q); None: the leverage scale, and a warning."""
        (level, *_), _ = check_confidence_level(DEFAULT_LEVEL if self.level is None else self.level)
        if rows is None or residuals is None:
            warnings.warn(
                "There are no honest residuals to choose a scale by, because the frozen model may have been trained on "
                "the rows given: the leverage scale is used. Pass residuals='unseen' if it was not.",
                LeverageWarning,
                stacklevel=2,
            )
            return self._without_choice("no honest residuals")
        if len(rows) < FEWEST_ROWS:
            return self._without_choice(f"{len(rows)} training rows, fewer than {FEWEST_ROWS}")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        candidates = default_candidates() if self.candidates is None else self.candidates
        candidates = {name: with_context(clone(scale), level, seed) for name, scale in candidates.items()}
        self.scales_: list[Scale] = []
        self.report_: list[dict[str, Any]] = []
        for j, one in enumerate(outputs(rows, residuals.shape[1])):
            chosen = self._choose(j, candidates, one, residuals[:, j], sample_weight, level=float(level), seed=seed)
            self.scales_.append(clone(candidates[chosen]).fit(one, residuals[:, [j]], sample_weight))
        return self

    def predict(self, rows: Rows) -> tuple[Any, Array]:
        """Return shift and width (m, q) of the scales chosen; (m, 1), or (m, q) as leverage is, without a choice."""
        if len(self.scales_) == 1 and isinstance(self.scales_[0], LeverageScale):
            return self.scales_[0].predict(rows)
        views = zip(self.scales_, outputs(rows, len(self.scales_)), strict=True)
        shifts, widths = zip(*(scale.predict(one) for scale, one in views), strict=True)
        columns = [np.broadcast_to(shift, (len(rows), 1)) for shift in shifts]
        return (np.hstack(columns) if any(map(np.any, columns)) else 0.0), np.hstack(widths)

    def _without_choice(self, reason: str) -> Self:
        self.scales_ = [LeverageScale().fit()]
        self.report_ = [{"candidate": "leverage", "chosen": True, "reason": reason}]
        return self

    def _choose(
        self,
        output: int,
        candidates: dict[str, Scale],
        rows: Rows,
        residual: Array,
        sample_weight: Array | None,
        *,
        level: float,
        seed: int,
    ) -> str:
        """Return the name of the candidate chosen for one output, and report on all of them."""
        # Infinite leverage gives infinite intervals under every scale that looks at it, and decides nothing.
        usable = np.flatnonzero(np.isfinite(rows.leverage))
        if len(usable) > MOST_ROWS:
            usable = np.sort(np.random.default_rng(seed).choice(usable, MOST_ROWS, replace=False))
        rows, residual = rows.take(usable), residual[usable]
        weight = None if sample_weight is None else sample_weight[usable]
        folds = list(KFold(FOLDS, shuffle=True, random_state=seed).split(residual))
        columns = []
        for scale in candidates.values():
            band = out_of_fold(trial_version(scale, TRIAL_TREES), rows, residual, weight, folds)
            columns.append(scores_at_own_threshold(residual, *band, level))
        scores, names = np.stack(columns, axis=1), list(candidates)
        choice, excess, error = simplest_within_one_error(scores)
        choice = best_of_its_kind([_kind(scale) for scale in candidates.values()], choice, excess)
        self.report_ += [
            {
                "output": output,
                "candidate": name,
                "score": float(scores[:, i].mean()),
                "excess": float(excess[i]),
                "standard_error": float(error[i]),
                "chosen": i == choice,
            }
            for i, name in enumerate(names)
        ]
        return names[choice]
