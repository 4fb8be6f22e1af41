"""Diagnostics of intervals over leverage, width and directions: arrays in, small results out."""

from hatband.diagnostics.alignment import LeverageAlignment, leverage_alignment, leverage_variation
from hatband.diagnostics.coverage import (
    BinCoverage,
    CoverageTable,
    binomial_interval,
    coverage_by_leverage,
    size_stratified_coverage,
)
from hatband.diagnostics.extrapolation import ExtrapolationGuard, extrapolation_pvalue
from hatband.diagnostics.flatness import CoverageGap, SquaredCoverageError, coverage_gap, squared_coverage_error
from hatband.diagnostics.scorer import IntervalScorer, interval_scorer
from hatband.diagnostics.slabs import SlabCoverage, worst_slab_coverage
from hatband.diagnostics.stability import LeverageStability, leverage_stability
from hatband.diagnostics.width import WidthDecomposition, width_decomposition
from hatband.formulas.metrics import (
    GroupCoverage,
    coverage_by_group,
    covered,
    interval_score,
    mean_width,
    pinball_loss,
    quantile_bins,
)

__all__ = [
    "BinCoverage",
    "CoverageGap",
    "CoverageTable",
    "ExtrapolationGuard",
    "GroupCoverage",
    "IntervalScorer",
    "LeverageAlignment",
    "LeverageStability",
    "SlabCoverage",
    "SquaredCoverageError",
    "WidthDecomposition",
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
