"""Diagnostics of intervals over leverage, width and directions: arrays in, small results out."""

from hatband.diagnostics.alignment import leverage_alignment, leverage_variation
from hatband.diagnostics.coverage import (
    binomial_interval,
    coverage_by_leverage,
    size_stratified_coverage,
)
from hatband.diagnostics.extrapolation import ExtrapolationGuard, extrapolation_pvalue
from hatband.diagnostics.flatness import coverage_gap, squared_coverage_error
from hatband.diagnostics.scorer import interval_scorer
from hatband.diagnostics.slabs import worst_slab_coverage
from hatband.diagnostics.stability import leverage_stability
from hatband.diagnostics.width import width_decomposition
from hatband.formulas.metrics import (
    coverage_by_group,
    covered,
    interval_score,
    mean_width,
    pinball_loss,
    quantile_bins,
)

__all__ = [
    "ExtrapolationGuard",
    "binomial_interval",
    "coverage_by_group",
    "coverage_by_leverage",
    "coverage_gap",
    "covered",
    "extrapolation_pvalue",
    "interval_score",
    "interval_scorer",
    "leverage_alignment",
    "leverage_stability",
    "leverage_variation",
    "mean_width",
    "pinball_loss",
    "quantile_bins",
    "size_stratified_coverage",
    "squared_coverage_error",
    "width_decomposition",
    "worst_slab_coverage",
]
