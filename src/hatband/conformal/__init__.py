"""Estimators that return calibrated prediction intervals."""

from hatband.conformal.ridge import ConformalKernelRidge, ConformalRidge
from hatband.conformal.split import SplitConformalRegressor

__all__ = ["ConformalKernelRidge", "ConformalRidge", "SplitConformalRegressor"]
