"""PyTorch: calibrated intervals for a trained module, from the leverage of its last layer or of all its parameters."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("hatband.nn needs PyTorch; install it with: pip install 'hatband[torch]'.") from error

from hatband.nn.ensemble import EnsembleConformalRegressor, fit_ensemble
from hatband.nn.laplace import LastLayerLaplace
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.linearised import LinearisedConformalRegressor
from hatband.nn.measure.conjugate_gradients import conjugate_gradient_leverage
from hatband.nn.measure.head import find_head
from hatband.nn.measure.layer_choice import WholeNetwork
from hatband.nn.measure.low_rank import LowRankTangentGeometry
from hatband.nn.measure.streaming import all_reduce, feature_statistics
from hatband.nn.measure.tangent import TangentFeatures, TangentGeometry
from hatband.nn.neural import NeuralConformalRegressor
from hatband.nn.noise import NoiseScale, predictive_law
from hatband.nn.refit import refit_head
from hatband.nn.train.fit import Epoch, History, TrainingDivergedError, fit_network
from hatband.nn.train.mlp import MLP, NoisyNetwork

__all__ = [
    "MLP",
    "EnsembleConformalRegressor",
    "Epoch",
    "History",
    "LastLayerConformalRegressor",
    "LastLayerLaplace",
    "LinearisedConformalRegressor",
    "LowRankTangentGeometry",
    "NeuralConformalRegressor",
    "NoiseScale",
    "NoisyNetwork",
    "TangentFeatures",
    "TangentGeometry",
    "TrainingDivergedError",
    "WholeNetwork",
    "all_reduce",
    "conjugate_gradient_leverage",
    "feature_statistics",
    "find_head",
    "fit_ensemble",
    "fit_network",
    "predictive_law",
    "refit_head",
]
