"""What `AutoScale` chooses from: scales by name, and blends of them."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hatband.arrays.typing import Array
from hatband.fitted.rows import Rows
from hatband.scales.base import Scale, band_of_one
from hatband.scales.fixed import ConstantScale, LeverageScale
from hatband.scales.learners import boosted_quantiles
from hatband.scales.magnitude import MagnitudeScale
from hatband.scales.quantile import QuantileScale
from hatband.scales.strength import StrengthScale

Blend: TypeAlias = tuple[str, ...]
Candidates: TypeAlias = dict[str, Scale | Blend]


def default_candidates() -> Candidates:
    """Return the candidates of `AutoScale`, the simpler first: by leverage, constant, learned from few, from all.

    Fixed leverage comes after its estimated strength, which contains it: it is not to win by being simpler.
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
    """Raise unless there is a scale, and every blend is of scales that are candidates themselves."""
    scales = [name for name, candidate in candidates.items() if not isinstance(candidate, tuple)]
    if not scales:
        raise ValueError(f"candidates must hold at least one Scale by its name; got {candidates!r}.")
    for name, candidate in candidates.items():
        unknown = sorted(set(members(name, candidate)) - set(scales))
        if unknown or candidate == ():
            raise ValueError(
                f"a blend must name scales among the candidates {scales}; {name!r} names {unknown or 'none'}. "
                "Add those scales, or leave the blend out."
            )


def members(name: str, candidate: Scale | Blend) -> Blend:
    """Return the names of the scales that a candidate is made of, as often as they count."""
    return candidate if isinstance(candidate, tuple) else (name,)


def kind(name: str, candidates: Candidates) -> tuple[str, ...]:
    """Return what makes a candidate simple: its form, or the columns that it learns from, or its parts do."""
    forms = [_kind(candidates[part]) for part in members(name, candidates[name])]
    return max(forms, key=len)


def _kind(scale: Any) -> tuple[str, ...]:
    return scale.columns if isinstance(scale, MagnitudeScale | QuantileScale) else (repr(scale),)


def mean_band(bands: list[tuple[Any, Array]], thresholds: Array) -> tuple[Any, Array]:
    """Return mean shift and mean half-width of bands, each at its own threshold: widths of one unit."""
    # Where every member covers without any width there is no unit to bring them to, and a width of 0 is none.
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
        found = {id(scale): band_of_one(scale, rows) for scale in self.scales}
        return mean_band([found[id(scale)] for scale in self.scales], np.asarray(self.thresholds))
