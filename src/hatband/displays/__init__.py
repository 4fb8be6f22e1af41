"""Pictures of fitted intervals, in scikit-learn's Display convention; matplotlib is loaded only when one is drawn."""

from hatband.displays.leverage import LeverageDisplay

__all__ = ["LeverageDisplay"]
