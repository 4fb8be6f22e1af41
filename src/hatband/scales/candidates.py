"""The candidates of `AutoScale`, scales by name and blends of them, and the rule by which it chooses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import clone

from hatband.arrays.typing import Array
from hatband.fitted.rows import Rows
from hatband.formulas.metrics import interval_score
from hatband.formulas.order_statistics import conformal_quantile
from hatband.scales.base import ConstantScale, LeverageScale, Scale, check_instance, fit_weighted, shift_and_width
from hatband.scales.learned import LearnedScale, MagnitudeScale, QuantileScale
from hatband.scales.learners import boosted_quantiles
from hatband.scales.strength import StrengthScale

Blend: TypeAlias = tuple[str, ...]
Candidates: TypeAlias = dict[str, Scale | Blend]

TRIAL_TREES = 25
# By how much the interval score of a forest falls from the trial, 25 trees on two thirds of the rows, to the scale
# that is fitted in the end: measured on public data sets, where it lies between 1 and 8 %.
TRIAL_LOSS = 0.05


def default_candidates() -> Candidates:
    """Return the candidates of `AutoScale`, simpler first: leverage, constant, learned from few columns, from all.

    Fixed leverage comes after leverage of estimated strength, which contains it: it must not win by being simpler.
    """
    return {
        "strength": StrengthScale(),
        "leverage": LeverageScale(),
        "constant": ConstantScale(),
        "sampling strength": StrengthScale(form="sampling"),
        "magnitude (leverage, prediction)": MagnitudeScale(columns=("leverage", "prediction")),
        "boosted quantile": QuantileScale(regressor=boosted_quantiles()),
        "quantile": QuantileScale(),
        "both quantiles": ("boosted quantile", "quantile", "quantile", "quantile"),
    }


def check_candidates(candidates: Candidates) -> None:
    """Raise unless there is a scale and every blend is made of candidates."""
    scales = [name for name, candidate in candidates.items() if not isinstance(candidate, tuple)]
    if not scales:
        raise ValueError(f"candidates must hold at least one Scale by its name; got {candidates!r}.")
    for name, candidate in candidates.items():
        check_instance(candidate, f"candidate {name!r}")
        unknown = sorted(set(members(name, candidate)) - set(scales))
        if unknown or candidate == ():
            raise ValueError(
                f"a blend must name scales among the candidates {scales}; {name!r} names {unknown or 'none'}. "
                "Add those scales, or leave the blend out."
            )


def members(name: str, candidate: Scale | Blend) -> Blend:
    """Return the names of the scales in a candidate, each as often as it counts in the mean."""
    return candidate if isinstance(candidate, tuple) else (name,)


def kind(name: str, candidates: Candidates) -> tuple[str, ...]:
    """Return the sort key by which candidates are simple: form, or the columns that they or their parts learn from."""
    forms = [_kind(candidates[part]) for part in members(name, candidates[name])]
    return max(forms, key=len)


def _kind(scale: Any) -> tuple[str, ...]:
    return scale.columns if isinstance(scale, LearnedScale) else (repr(scale),)


def mean_band(bands: list[tuple[Any, Array]], thresholds: Array) -> tuple[Any, Array]:
    """Return mean shift and mean half-width of bands, each at its own threshold, so that the widths have one unit."""
    # All thresholds are 0 where every residual is. Widths then keep their own units, because they must be > 0.
    thresholds = thresholds if np.any(thresholds) else np.ones(len(bands))
    shift = sum(shift for shift, _ in bands) / len(bands)
    width = sum(threshold * width for threshold, (_, width) in zip(thresholds, bands, strict=True)) / len(bands)
    return shift, width


@dataclass(frozen=True)
class FittedBlend:
    """The mean of fitted bands.

    Parameters
    ----------
    scales : list of fitted scales
        A scale that counts twice stands twice.
    thresholds : array (k,)
        What brings the width of each to one unit: its own threshold on rows that it had not seen.
    """

    scales: list[Scale]
    thresholds: Array

    def predict(self, rows: Rows) -> tuple[Any, Array]:
        """Return shift and width."""
        found = {id(scale): shift_and_width(scale, rows) for scale in self.scales}
        return mean_band([found[id(scale)] for scale in self.scales], np.asarray(self.thresholds))


def out_of_fold(
    scale: Scale, rows: Rows, residual: Array, sample_weight: Array | None, folds: list[tuple[Array, Array]]
) -> tuple[Array, Array]:
    """Return shift and width (n,) of each row by a clone of the scale that has not seen its fold."""
    shift, width = np.empty(len(rows)), np.empty(len(rows))
    for train, test in folds:
        weight = None if sample_weight is None else sample_weight[train]
        fitted = fit_weighted(clone(scale), rows.take(train), residual[train, None], sample_weight=weight, role="scale")
        found_shift, found_width = shift_and_width(fitted, rows.take(test))
        shift[test] = np.broadcast_to(found_shift, (len(test), 1))[:, 0]
        width[test] = found_width[:, 0]
    return shift, width


def own_threshold(residual: Array, shift: Array, width: Array, level: float) -> float:
    """Return the factor of the width (n,) that calibrates shift -+ factor x width on the same rows."""
    return float(conformal_quantile(np.abs(residual - shift)[:, None] / width[:, None], level)[0])


def scores_at(threshold: float, residual: Array, shift: Array, width: Array, level: float) -> Array:
    """Return the interval score (n,) of shift -+ threshold x width."""
    half = threshold * width
    return interval_score(residual, shift - half, shift + half, level)


def simplest_within_one_error(scores: Array) -> tuple[int, Array, Array]:
    """Return (choice, mean excess over the best, its standard error) for scores (n, k) of k candidates, simple first.

    The choice is the first candidate whose excess is at most its standard error: that of paired differences. Breiman
    et al. (1984), *Classification and regression trees*, section 3.4.3, with the rows paired.
    """
    best = int(scores.mean(axis=0).argmin())
    excess = scores - scores[:, [best]]
    mean, error = excess.mean(axis=0), excess.std(axis=0) / np.sqrt(len(scores))
    return int(np.flatnonzero(mean <= error)[0]), mean, error


def best_of_its_kind(kinds: Sequence[tuple[str, ...]], choice: int, means: Array) -> int:
    """Return the best of the candidates that count as simple as the choice."""
    return min((i for i, kind in enumerate(kinds) if kind == kinds[choice]), key=lambda i: means[i])


def trial_version(scale: Any) -> tuple[Any, float]:
    """Return a clone that is cheap enough to be fitted in every fold, and the share by which its score is too high."""
    parameters = scale.get_params(deep=False)
    # With a regressor from the user there is no forest.
    n_trees = parameters.get("n_trees", 0) if parameters.get("regressor") is None else 0
    if n_trees <= TRIAL_TREES:
        return clone(scale), 0.0
    return clone(scale).set_params(n_trees=TRIAL_TREES), TRIAL_LOSS
