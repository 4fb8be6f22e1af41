"""hatband: prediction intervals driven by statistical leverage. The hat matrix gives the band."""

from hatband.checks import CalibrationWarning, LeverageWarning
from hatband.conformal import (
    ApproximateJackknifePlusRegressor,
    ClassifierRatio,
    CrossConformalRegressor,
    FullConformalRegressor,
    Groups,
    JackknifePlusRegressor,
    LeverageBins,
    OnlineConformalRegressor,
    PredictiveDistribution,
    SplitConformalRegressor,
)
from hatband.diagnostics import interval_scorer
from hatband.fitted.loo_ridge import LeaveOneOutKernelRidge, LeaveOneOutRidge
from hatband.formulas.leave_one_out import loo_leverage, loo_predictions, loo_residuals
from hatband.formulas.leverage import cross_leverage, effective_dimension, leverage, sampling_leverage
from hatband.formulas.metrics import interval_score
from hatband.formulas.posterior import LinearPosterior, PosteriorPrediction
from hatband.geometry import InputsGeometry, geometry_of
from hatband.scales import (
    AutoScale,
    ConstantScale,
    LaplaceScale,
    LeverageScale,
    MagnitudeScale,
    QuantileScale,
    Scale,
    StrengthScale,
)

__version__ = "0.1.0"

__all__ = [
    "ApproximateJackknifePlusRegressor",
    "AutoScale",
    "CalibrationWarning",
    "ClassifierRatio",
    "ConstantScale",
    "CrossConformalRegressor",
    "FullConformalRegressor",
    "Groups",
    "InputsGeometry",
    "JackknifePlusRegressor",
    "LaplaceScale",
    "LeaveOneOutKernelRidge",
    "LeaveOneOutRidge",
    "LeverageBins",
    "LeverageScale",
    "LeverageWarning",
    "LinearPosterior",
    "MagnitudeScale",
    "OnlineConformalRegressor",
    "PosteriorPrediction",
    "PredictiveDistribution",
    "QuantileScale",
    "Scale",
    "SplitConformalRegressor",
    "StrengthScale",
    "cross_leverage",
    "effective_dimension",
    "geometry_of",
    "interval_score",
    "interval_scorer",
    "leverage",
    "loo_leverage",
    "loo_predictions",
    "loo_residuals",
    "sampling_leverage",
]
