"""PyTorch: networks whose intervals widen where they have not been. Needs torch: pip install "hatband[torch]"."""

from hatband.nn.network import MLP, NoisyNetwork
from hatband.nn.training import Epoch, History, TrainingDivergedError, fit_network

__all__ = ["MLP", "Epoch", "History", "NoisyNetwork", "TrainingDivergedError", "fit_network"]
