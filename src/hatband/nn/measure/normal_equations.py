"""Whether a linear layer is the ridge regression on the features of given rows, by its normal equations."""

from typing import Any

import numpy as np
import torch
from torch import nn

from hatband.arrays.backend import EPS
from hatband.arrays.typing import Array
from hatband.linalg import GramStatistics
from hatband.nn.measure.batches import wide_on_host
from hatband.nn.measure.parameter_subset import Intercept

# A solved head satisfies its normal equations to this; one trained by gradients seldom to 1e-3.
_STATIONARY = 1e-6


def own_ridge(statistics: GramStatistics, layer: nn.Linear, intercept: Intercept, ridge: Any) -> float | None:
    """Return the ridge r at which Phi'e = r W holds for a layer on these rows, if there is one, and it is allowed.

    Phi'e = Phi'y - Phi'Phi W; what rounding of the weights of the layer does to it is allowed for.
    """
    weights, bias = layer_weights(layer)
    if statistics.n_targets != weights.shape[1]:
        return None
    backend, precision = statistics.backend, torch.finfo(layer.weight.dtype).eps
    if intercept == "penalised":
        weights = np.vstack([weights, bias])
    gram, products = statistics.products(intercept == "free")
    there = backend.asarray(weights)
    # The Gram matrix stays where it is: only columns of its size come to the host.
    cross, fitted, size = map(backend.numpy, (products, gram @ there, abs(gram) @ abs(there)))
    slope = cross - fitted
    slack = _STATIONARY * np.linalg.norm(cross) + 4 * precision * np.linalg.norm(size)
    found = float((slope * weights).sum() / max((weights**2).sum(), EPS))
    # Below the slack a ridge cannot be told from none: least squares has to be asked for.
    if ridge == "auto" and found * np.linalg.norm(weights) <= slack:
        return None
    own = found if ridge == "auto" else float(ridge)
    if np.linalg.norm(slope - own * weights) > slack:
        return None
    return own if intercept != "free" or _is_balanced(statistics, weights, bias, precision) else None


def _is_balanced(statistics: GramStatistics, weights: Array, bias: Array, precision: float) -> bool:
    """Whether the residuals have mean 0, as those of a free intercept do."""
    mean, y_mean, spread = map(statistics.backend.numpy, (statistics.mean, statistics.y_mean, statistics.y_square))
    slack = _STATIONARY * (abs(y_mean) + np.sqrt(np.diag(spread) / statistics.weight))
    slack = slack + 4 * precision * (abs(mean) @ abs(weights) + abs(bias))
    return bool((abs(y_mean - mean @ weights - bias) <= slack).all())


def layer_weights(layer: nn.Linear) -> tuple[Array, Array]:
    """Return slopes (d, q) and intercepts (q,) of a layer in float64."""
    slopes = wide_on_host(layer.weight).T
    return slopes, np.zeros(slopes.shape[1]) if layer.bias is None else wide_on_host(layer.bias)
