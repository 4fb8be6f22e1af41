"""hatband: prediction intervals driven by statistical leverage. The hat matrix gives the band."""

from hatband._leverage import (
    cross_leverage,
    effective_dimension,
    leverage,
    loo_leverage,
    loo_predictions,
    loo_residuals,
    sampling_leverage,
)
from hatband._validation import CalibrationWarning, LeverageWarning
from hatband.conformal import ConformalKernelRidge, ConformalRidge, SplitConformalRegressor
from hatband.geometry import InputsGeometry, geometry_of
from hatband.interval_metrics import interval_score
from hatband.ridge import LeaveOneOutKernelRidge, LeaveOneOutRidge
from hatband.scales import ConstantScale, LeverageScale, Scale

__version__ = "0.1.0"

__all__ = [
    "CalibrationWarning",
    "ConformalKernelRidge",
    "ConformalRidge",
    "ConstantScale",
    "InputsGeometry",
    "LeaveOneOutKernelRidge",
    "LeaveOneOutRidge",
    "LeverageScale",
    "LeverageWarning",
    "Scale",
    "SplitConformalRegressor",
    "cross_leverage",
    "effective_dimension",
    "geometry_of",
    "interval_score",
    "leverage",
    "loo_leverage",
    "loo_predictions",
    "loo_residuals",
    "sampling_leverage",
]
