"""PyTorch: calibrated intervals for a trained module, from the leverage of its last layer."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("hatband.nn needs PyTorch; install it with: pip install 'hatband[torch]'.") from error

from hatband.nn.claps import ClapsRegressor, standard_score, two_sided_probability
from hatband.nn.claps_diagnostics import calibration_arrays, variance_shares
from hatband.nn.conjugate_gradients import conjugate_gradient_leverage
from hatband.nn.head import find_head
from hatband.nn.laplace import LastLayerLaplace
from hatband.nn.last_layer import LastLayerConformalRegressor
from hatband.nn.linearised import LinearisedConformalRegressor
from hatband.nn.network import MLP, NoisyNetwork
from hatband.nn.refit import refit_head
from hatband.nn.streaming import all_reduce, feature_statistics
from hatband.nn.tangent import TangentFeatures, TangentGeometry
from hatband.nn.training import Epoch, History, TrainingDivergedError, fit_network

__all__ = [
    "MLP",
    "ClapsRegressor",
    "Epoch",
    "History",
    "LastLayerConformalRegressor",
    "LastLayerLaplace",
    "LinearisedConformalRegressor",
    "NoisyNetwork",
    "TangentFeatures",
    "TangentGeometry",
    "TrainingDivergedError",
    "all_reduce",
    "calibration_arrays",
    "conjugate_gradient_leverage",
    "feature_statistics",
    "find_head",
    "fit_network",
    "refit_head",
    "standard_score",
    "two_sided_probability",
    "variance_shares",
]
