"""The space of the features of a last layer: leverage read off one factor, on the device that the features are on."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import nn

from hatband._backend import EPS, NumpyBackend, on_host
from hatband._typing import Array
from hatband._validation import check_in, check_ridge
from hatband.geometry import Exactness, Features, Space
from hatband.linalg import Factor, GramStatistics
from hatband.linalg.moments import Centre
from hatband.nn.head import Head, watching

INTERCEPTS = ("free", "penalised", "none")
# Ridge of a network whose own penalty is not known, as a share of the mean eigenvalue of the Gram matrix.
RELATIVE_RIDGE = 1e-4
# Coordinates of the features that stand for inputs which are not a table.
DIRECTIONS = 32
# A solved head satisfies its normal equations to this; one trained by gradients seldom to 1e-3.
_STATIONARY = 1e-6


@dataclass(frozen=True, eq=False, kw_only=True)
class LastLayerSpace(Space):
    """h(x) = 1/n + (phi(x) - m)' (Phi_c' Phi_c + ridge)^-1 (phi(x) - m), phi(x) being what enters the head.

    Parameters
    ----------
    module : nn.Module
        The network; measuring leaves it as it was found.
    head : Head
        Its last linear layer.
    statistics : GramStatistics
        Of the training features, and of the targets where there were any.
    factor : Factor
        Of their Gram matrix.
    intercept : {"free", "penalised", "none"}
        What the bias of the head is in the Gram matrix.
    ridge : float
        Ridge in the sum convention.
    n_samples : int
        Number of training rows.
    exactness : {"given", "none"}
        "given" when the head is the ridge regression on the features of these rows.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LastLayerConformalRegressor
    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> space = LastLayerConformalRegressor(net, scale="leverage").fit_train(torch.randn(50, 3)).space_
    >>> space.leverage(space.features(torch.randn(5, 3))).shape
    (5,)
    """

    module: nn.Module
    head: Head
    statistics: GramStatistics
    factor: Factor
    intercept: str
    ridge: float
    n_samples: int
    exactness: Exactness

    @cached_property
    def directions(self) -> Array:
        """Principal directions of the training features (d, k), k <= 32."""
        gram = self.factor.frame.backend.numpy(self.statistics.gram)
        last = len(gram) - 1
        return scipy.linalg.eigh(gram, subset_by_index=(max(0, last + 1 - DIRECTIONS), last))[1]

    def features(self, X: Any) -> Features:
        """Run the module once on X."""
        with watching(self.module, self.head) as run:
            seen = run(X)
            return Features(seen.table, seen.features)

    def inputs(self, features: Features) -> Array:
        """Return X where it is a table of at most 256 columns, else the features along their principal directions."""
        X, backend = features.model_inputs, self.factor.frame.backend
        if X is not None:
            return np.asarray(on_host(X.double()))
        return backend.numpy(backend.asarray(features.values) @ backend.asarray(self.directions))

    def leverages(self, features: Features) -> tuple[Array, Array]:
        """Return posterior and sampling leverage from one pass over the rows."""
        posterior, sampling = self.factor.leverages(self._rows(features))
        return np.asarray(on_host(posterior)), np.asarray(on_host(sampling))

    def leverage(self, features: Features) -> Array:
        """Return h(x) of each row, shape (m,)."""
        return np.asarray(on_host(self.factor.leverage(self._rows(features))))

    def sampling_leverage(self, features: Features) -> Array:
        """Return s(x) of each row, shape (m,)."""
        return np.asarray(on_host(self.factor.sampling_leverage(self._rows(features))))

    def cross_leverage(self, features: Features, others: Features | None = None) -> Array:
        """Return h(x, z), shape (m, k); the training rows are not kept and have to be passed as `others`."""
        if others is None:
            raise ValueError(
                "cross_leverage to the training rows needs these rows, and the space of a last layer keeps none; pass "
                "others=space.features(X_train)."
            )
        return np.asarray(on_host(self.factor.cross_leverage(self._rows(features), self._rows(others))))

    def final_step(self, estimator: Any) -> Any:
        """Return the estimator: it predicts from X itself."""
        return estimator

    def _rows(self, features: Features) -> torch.Tensor:
        """Return the rows that the factor measures, where it can read them."""
        values = features.values
        if isinstance(self.factor.frame.backend, NumpyBackend):
            values = values.cpu()
        return with_one(values) if self.intercept == "penalised" else values


def with_one(values: torch.Tensor) -> torch.Tensor:
    """Return features [phi, 1]."""
    return torch.cat([values, values.new_ones(len(values), 1)], dim=1)


def fit_space(
    module: nn.Module, head: Head, statistics: GramStatistics, ridge: Any = "auto", penalise_bias: bool = False
) -> LastLayerSpace:
    """Factor the statistics of the features of a head.

    Parameters
    ----------
    module, head : nn.Module, Head
        The network and its last layer.
    statistics : GramStatistics
        What `feature_statistics` returns.
    ridge : float or "auto"
        "auto": the ridge of the head itself where it is a ridge regression on these rows, else 1e-4 tr(Phi'Phi)/d.
    penalise_bias : bool
        Whether the ridge is on the bias of the head as well, as under a prior on all weights of the layer.
    """
    ridge = _checked_ridge(ridge)
    intercept = _intercept(head, penalise_bias)
    used = appended(statistics) if intercept == "penalised" else statistics
    own = _own_ridge(used, head, intercept, ridge)
    chosen = _chosen_ridge(used, intercept, ridge, own)
    exactness: Exactness = "none" if own is None else "given"
    return space_at(module, head, statistics, ridge=chosen, intercept=intercept, exactness=exactness)


def space_at(
    module: nn.Module, head: Head, statistics: GramStatistics, *, ridge: float, intercept: str, exactness: Exactness
) -> LastLayerSpace:
    """Factor the statistics of the features of a head at a ridge that has been chosen."""
    used = appended(statistics) if intercept == "penalised" else statistics
    return LastLayerSpace(
        module=module,
        head=head,
        statistics=statistics,
        factor=used.factor(ridge, fit_intercept=intercept == "free"),
        intercept=intercept,
        ridge=ridge,
        n_samples=statistics.n_samples,
        exactness=exactness,
    )


def _intercept(head: Head, penalise_bias: bool) -> str:
    if head.layer.bias is None:
        return "none"
    return "penalised" if penalise_bias else "free"


def _chosen_ridge(statistics: GramStatistics, intercept: str, ridge: Any, own: float | None) -> float:
    if own is not None:
        return own
    if ridge != "auto":
        return float(ridge)
    gram, _ = statistics.products(intercept == "free")
    return RELATIVE_RIDGE * float(gram.diagonal().sum()) / len(gram)


def _checked_ridge(ridge: Any) -> Any:
    """Return "auto" or one number."""
    if isinstance(ridge, str):
        check_in(ridge, ("auto",), "ridge")
        return ridge
    chosen = check_ridge(ridge)
    if not isinstance(chosen, float):
        raise ValueError(f"ridge must be one number, or 'auto'; got shape {chosen.shape}.")
    return chosen


def appended(statistics: GramStatistics) -> GramStatistics:
    """Return the statistics of [phi, 1]: a column of ones has mean 1 and nothing about it."""
    d, centre, joint = statistics.n_features, statistics.centre, statistics.joint
    backend = statistics.backend
    size = len(joint) + 1
    mean, wider = backend.ones(size), backend.zeros(size, size)
    mean[:d], mean[d + 1 :] = centre.mean[:d], centre.mean[d:]
    old, new = (slice(d), slice(d, None)), (slice(d), slice(d + 1, None))
    for i in range(2):
        for j in range(2):
            wider[new[i], new[j]] = joint[old[i], old[j]]
    return replace(statistics, centre=Centre(centre.n_samples, centre.weight, mean), n_features=d + 1, joint=wider)


def _own_ridge(statistics: GramStatistics, head: Head, intercept: str, ridge: Any) -> float | None:
    """Return the ridge r at which Phi'e = r W holds for the head on these rows, if there is one, and it is allowed.

    Phi'e = Phi'y - Phi'Phi W; what rounding of the weights of the head does to it is allowed for.
    """
    weights, bias = head_weights(head)
    if not head.is_affine or statistics.n_targets != weights.shape[1]:
        return None
    backend, precision = statistics.backend, torch.finfo(head.layer.weight.dtype).eps
    if intercept == "penalised":
        weights = np.vstack([weights, bias])
    gram, cross = map(backend.numpy, statistics.products(intercept == "free"))
    slope = cross - gram @ weights
    slack = _STATIONARY * np.linalg.norm(cross) + 4 * precision * np.linalg.norm(abs(gram) @ abs(weights))
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


def head_weights(head: Head) -> tuple[Array, Array]:
    """Return slopes (d, q) and intercepts (q,) of the head in float64."""
    layer = head.layer
    slopes = layer.weight.detach().to("cpu", torch.float64).numpy().T
    return slopes, np.zeros(slopes.shape[1]) if layer.bias is None else layer.bias.detach().cpu().double().numpy()
