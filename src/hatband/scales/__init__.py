"""Scales: how the width of a band varies from row to row."""

from hatband.scales.auto import AutoScale
from hatband.scales.base import ConstantScale, LeverageScale, Scale, check_training_rows
from hatband.scales.laplace import LaplaceScale
from hatband.scales.learned import MagnitudeScale, QuantileScale
from hatband.scales.strength import StrengthScale

__all__ = [
    "AutoScale",
    "ConstantScale",
    "LaplaceScale",
    "LeverageScale",
    "MagnitudeScale",
    "QuantileScale",
    "Scale",
    "StrengthScale",
    "check_training_rows",
]
