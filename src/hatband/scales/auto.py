"""The scale that chooses between scales."""

from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state

from hatband.arrays.typing import Array
from hatband.checks import LeverageWarning, check_confidence_level, warn_caller
from hatband.fitted.rows import Rows
from hatband.formulas.order_statistics import minimum_calibration_size
from hatband.scales.base import LeverageScale, Scale, fit_weighted, outputs, shift_and_width, with_context
from hatband.scales.candidates import (
    Candidates,
    FittedBlend,
    best_of_its_kind,
    check_candidates,
    default_candidates,
    kind,
    mean_band,
    members,
    out_of_fold,
    own_threshold,
    scores_at,
    simplest_within_one_error,
    trial_version,
)
from hatband.scales.learned import DEFAULT_LEVEL

FEWEST_ROWS = 100
MOST_ROWS = 20_000
FOLDS = 3
# The choice is made on rows predicted without their block; a block costs its cube.
BLOCKS, LARGEST_BLOCK = 10, 500


class _Trial(NamedTuple):
    """A candidate on rows that it has not seen: its band, the threshold of the band, and its interval scores."""

    band: tuple[Array, Array]
    threshold: float
    scores: Array
    loss: float


class AutoScale(Scale):
    """The scale with the smallest cross-validated mean interval score on held-out residuals, simpler ones first.

    The one-standard-error rule chooses, for each output, between the constant scale, leverage, leverage of estimated
    strength, learned magnitudes, learned quantiles, and the mean of two ways to learn these. No calibration row is
    used, so the calibrated interval keeps its guarantee.

    Parameters
    ----------
    candidates : dict of name -> Scale or tuple of names, or None, default=None
        The simpler first. A tuple blends the candidates that it names: the mean of their bands, each scaled to its own
        threshold; a name that stands twice counts twice. None: strength, leverage, constant, strength of the sampling
        form, magnitude learned from (leverage, prediction), then from (leverage, prediction, inputs) boosted
        quantiles, a forest's, and one part of those with three of these.
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
        residuals), excess over the best candidate, its standard_error, and whether it was chosen. With too few rows
        (fewer than 100, or than the level needs for a finite threshold), or no held-out residuals, an entry that says
        why the leverage scale is used.

    Raises
    ------
    ValueError
        If the level is not inside (0, 1), there are no candidates, or a blend names a scale that is not one of them.

    Notes
    -----
    Three folds. Where the model is a linear smoother, each row is predicted without a tenth of the rows, itself
    included, because a learner can read the residual off a leave-one-out prediction. Forests have 25 trees in the
    trial and all of their trees in the scale that is chosen. Their scores are lowered by 5 %, which is what the other
    trees and the rows of the fold bring. Candidates that learn from the same columns count as equally simple: the best
    is taken. Rows of weight 0 and of infinite leverage take no part in the choice, and no more than 20,000 rows do.
    Cost: about that of five boosted quantile regressions.

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
        self, candidates: Candidates | None = None, *, level: float | None = None, random_state: Any = None
    ) -> None:
        self.candidates = candidates
        self.level = level
        self.random_state = random_state

    def fit(self, rows: Rows | None, residuals: Array | None = None, sample_weight: Array | None = None) -> Self:
        """Choose and fit a scale by held-out residuals (n, q) of training rows; without them warn and use leverage."""
        (level, *_), _ = check_confidence_level(DEFAULT_LEVEL if self.level is None else self.level)
        candidates = default_candidates() if self.candidates is None else self.candidates
        check_candidates(candidates)
        self.scales_: list[Scale | FittedBlend] = [LeverageScale().fit()]
        self.report_: list[dict[str, Any]] = [_unchosen(0, "no held-out residuals")]
        if rows is None or residuals is None:
            warn_caller(
                "AutoScale uses the leverage scale, because it has no held-out residuals to choose by: the model may "
                "have been trained on the rows given and cannot be refitted. Pass fit_train_rows='unseen' if it has "
                "not seen them, or, for a network, rows that it has not seen: validation=, or validation_size > 0.",
                LeverageWarning,
            )
            return self
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        choice = _Choice(candidates, level, seed)
        found = [
            choice.fit(j, one, residuals[:, j], sample_weight)
            for j, one in enumerate(outputs(rows, residuals.shape[1]))
        ]
        self.scales_ = [scale for scale, _ in found]
        self.report_ = [entry for _, report in found for entry in report]
        return self

    def predict(self, rows: Rows) -> tuple[Any, Array]:
        """Return shift and width (m, q) of the scales chosen; (m, 1), or (m, q) as leverage is, without a choice."""
        if len(self.scales_) == 1 and isinstance(self.scales_[0], LeverageScale):
            return self.scales_[0].predict(rows)
        views = zip(self.scales_, outputs(rows, len(self.scales_)), strict=True)
        shifts, widths = zip(*(shift_and_width(scale, one) for scale, one in views), strict=True)
        columns = [np.broadcast_to(shift, (len(rows), 1)) for shift in shifts]
        return (np.hstack(columns) if any(map(np.any, columns)) else 0.0), np.hstack(widths)


class _Choice:
    """The choice between candidates, made for each output by itself."""

    def __init__(self, candidates: Candidates, level: Any, seed: int) -> None:
        self.candidates = candidates
        self.level = level
        self.seed = seed
        self.scales = {
            name: with_context(clone(scale), level, seed)
            for name, scale in candidates.items()
            if not isinstance(scale, tuple)
        }

    def fit(
        self, output: int, rows: Rows, residual: Array, sample_weight: Array | None
    ) -> tuple[Scale | FittedBlend, list[dict[str, Any]]]:
        """Return the scale chosen for one output, fitted on all rows, and the report on all candidates."""
        usable = self._usable(rows, sample_weight)
        fewest = max(FEWEST_ROWS, minimum_calibration_size(self.level))
        if len(usable) < fewest:
            reason = f"{len(usable)} training rows, fewer than {fewest}"
            return LeverageScale().fit(), [_unchosen(output, reason)]
        weight = None if sample_weight is None else sample_weight[usable]
        blocks = KFold(max(BLOCKS, -(-len(usable) // LARGEST_BLOCK)), shuffle=True, random_state=self.seed)
        tried, unseen = rows.take(usable).without_blocks(residual[usable], [block for _, block in blocks.split(usable)])
        trials = self._trials(tried, unseen, weight)
        chosen, report = self._decide(output, trials)
        thresholds = [trials[part].threshold for part in members(chosen, self.candidates[chosen])]
        return self._fitted(chosen, rows, residual, sample_weight, thresholds), report

    def _fitted(
        self, chosen: str, rows: Rows, residual: Array, sample_weight: Array | None, thresholds: list[float]
    ) -> Scale | FittedBlend:
        """Fit the chosen candidate on all rows; thresholds (k,) are those of its members."""
        parts = members(chosen, self.candidates[chosen])
        fitted = {
            name: fit_weighted(
                clone(self.scales[name]), rows, residual[:, None], sample_weight=sample_weight, role="scale"
            )
            for name in set(parts)
        }
        if len(fitted) == 1:
            return fitted[parts[0]]
        return FittedBlend([fitted[part] for part in parts], np.array(thresholds))

    def _usable(self, rows: Rows, sample_weight: Array | None) -> Array:
        """Return the rows that take part in the choice."""
        # Infinite leverage gives infinite intervals under every scale that looks at it, and decides nothing.
        used = np.isfinite(rows.leverage) & (True if sample_weight is None else sample_weight > 0)
        usable = np.flatnonzero(used)
        if len(usable) > MOST_ROWS:
            usable = np.sort(np.random.default_rng(self.seed).choice(usable, MOST_ROWS, replace=False))
        return usable

    def _trials(self, rows: Rows, residual: Array, weight: Array | None) -> dict[str, _Trial]:
        folds = list(KFold(FOLDS, shuffle=True, random_state=self.seed).split(residual))
        trials: dict[str, _Trial] = {}
        for name, scale in self.scales.items():
            trial, loss = trial_version(scale)
            trials[name] = self._tried(residual, out_of_fold(trial, rows, residual, weight, folds), loss)
        for name, blend in self.candidates.items():
            if isinstance(blend, tuple):
                parts = [trials[part] for part in blend]
                band = mean_band([part.band for part in parts], np.array([part.threshold for part in parts]))
                trials[name] = self._tried(residual, band, float(np.mean([part.loss for part in parts])))
        return trials

    def _tried(self, residual: Array, band: tuple[Array, Array], loss: float) -> _Trial:
        threshold = own_threshold(residual, *band, self.level)
        scores = scores_at(threshold, residual, *band, float(self.level))
        return _Trial(band, threshold, scores * (1 - loss), loss)

    def _decide(self, output: int, trials: dict[str, _Trial]) -> tuple[str, list[dict[str, Any]]]:
        """Return the name of the candidate chosen, and the report on all."""
        names = list(self.candidates)
        scores = np.stack([trials[name].scores for name in names], axis=1)
        choice, excess, error = simplest_within_one_error(scores)
        choice = best_of_its_kind([kind(name, self.candidates) for name in names], choice, excess)
        report = [
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
        return names[choice], report


def _unchosen(output: int, reason: str) -> dict[str, Any]:
    return {"output": output, "candidate": "leverage", "chosen": True, "reason": reason}
