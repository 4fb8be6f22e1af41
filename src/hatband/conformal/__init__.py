"""Estimators that return calibrated prediction intervals, and predictive distributions."""

from hatband.conformal.approximate import ApproximateJackknifePlusRegressor
from hatband.conformal.convex import ConvexFit, convex_fit
from hatband.conformal.cross import CrossConformalRegressor
from hatband.conformal.distribution import PredictiveDistribution
from hatband.conformal.full import FullConformalRegressor
from hatband.conformal.groups import Groups, LeverageBins
from hatband.conformal.jackknife import JackknifePlusRegressor
from hatband.conformal.online import OnlineConformalRegressor
from hatband.conformal.online_levels import AdaptiveLevel, AggregatedLevel, FixedLevel, LevelAdaptation
from hatband.conformal.predictive import leave_one_out_distribution, predictive_distribution
from hatband.conformal.ridge import ConformalKernelRidge, ConformalRidge
from hatband.conformal.shift import ClassifierRatio
from hatband.conformal.split import SplitConformalRegressor

__all__ = [
    "AdaptiveLevel",
    "AggregatedLevel",
    "ApproximateJackknifePlusRegressor",
    "ClassifierRatio",
    "ConformalKernelRidge",
    "ConformalRidge",
    "ConvexFit",
    "CrossConformalRegressor",
    "FixedLevel",
    "FullConformalRegressor",
    "Groups",
    "JackknifePlusRegressor",
    "LevelAdaptation",
    "LeverageBins",
    "OnlineConformalRegressor",
    "PredictiveDistribution",
    "SplitConformalRegressor",
    "convex_fit",
    "leave_one_out_distribution",
    "predictive_distribution",
]
