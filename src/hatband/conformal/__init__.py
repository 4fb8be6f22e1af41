"""Estimators that return calibrated prediction intervals, and predictive distributions."""

from hatband.conformal.calibration.groups import Groups, LeverageBins
from hatband.conformal.calibration.shift import ClassifierRatio
from hatband.conformal.distribution import PredictiveDistribution
from hatband.conformal.full import FullConformalRegressor
from hatband.conformal.held_out.approximate import ApproximateJackknifePlusRegressor
from hatband.conformal.held_out.cross import CrossConformalRegressor
from hatband.conformal.held_out.jackknife import JackknifePlusRegressor
from hatband.conformal.online.levels import AdaptiveLevel, AggregatedLevel, FixedLevel, LevelAdaptation
from hatband.conformal.online.regressor import OnlineConformalRegressor
from hatband.conformal.regressor import IntervalRegressor
from hatband.conformal.split import SplitConformalRegressor

__all__ = [
    "AdaptiveLevel",
    "AggregatedLevel",
    "ApproximateJackknifePlusRegressor",
    "ClassifierRatio",
    "CrossConformalRegressor",
    "FixedLevel",
    "FullConformalRegressor",
    "Groups",
    "IntervalRegressor",
    "JackknifePlusRegressor",
    "LevelAdaptation",
    "LeverageBins",
    "OnlineConformalRegressor",
    "PredictiveDistribution",
    "SplitConformalRegressor",
]
