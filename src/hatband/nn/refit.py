"""The last layer of a network, solved exactly; gradient descent only approaches this solution."""

from typing import Any

import numpy as np
import torch
from torch import nn

from hatband.formulas.ridge_choice import checked_ridge, chosen_ridge, last_layer_ridge
from hatband.formulas.ridge_spectrum import RidgeSpectrum
from hatband.linalg import TriangularStatistics
from hatband.nn.measure.batches import (
    NO_ROWS,
    ArrayBatches,
    Batches,
    as_batches,
    check_finite_from,
    targets,
    wide_on_host,
)
from hatband.nn.measure.head import Head
from hatband.nn.measure.network_rows import columns_like, head_of
from hatband.nn.measure.state import copied


def refit_head(
    module: nn.Module,
    data: Any,
    y: Any = None,
    *,
    layer: str | nn.Module | None = None,
    ridge: Any = "auto",
) -> nn.Module:
    """Return a copy whose last layer minimises |y - Phi w - b|^2 + ridge |w|^2 over the rows, with fixed features.

    Parameters
    ----------
    module : nn.Module
        A network that ends in a linear layer; it does not change.
    data : DataLoader of (inputs, y), array (n, ...) or pair (X, y)
        Training rows.
    y : array (n,) or (n, q), optional
        Targets of an array.
    layer : str, nn.Module or None, default=None
        The last linear layer; None finds it, see `find_head`.
    ridge : float, "evidence", "gcv" or "auto", default="auto"
        In the sum convention; "auto" is 1e-4 tr(Phi'Phi) / d. A bias is not penalised. No rows are kept for "loo".

    Returns
    -------
    nn.Module
        A deep copy, on the same device and in the same mode.

    Raises
    ------
    ValueError
        If no head is found, its output is not the prediction itself (an activation follows), something is not finite,
        or the weights of the head cannot be written: it is parametrised, or they are too large for its type.

    Notes
    -----
    One forward pass; the rows are folded into a triangle R by QR, 2 n (d + q)^2 operations in float64 and O(d^2)
    memory, and the weights come from R w = Q'y: no Gram matrix, so nearly dependent features cost no more digits than
    they must. On the training rows the penalised squared error can only fall; on new rows it need not, and calibration
    rows have to be others. The recipe of solving for the readout of a trained network (the conjugate kernel) is that
    of Qadeer et al. (2023), "Efficient kernel surrogates for neural network-based regression".

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import refit_head
    >>> _ = torch.manual_seed(0)
    >>> X = torch.randn(500, 3)
    >>> y = X.prod(1, keepdim=True)
    >>> net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 1))
    >>> better = refit_head(net, X, y)
    >>> bool((better(X) - y).square().mean() < (net(X) - y).square().mean())
    True
    """
    checked_ridge(ridge)
    batches = as_batches(data, y)
    head = head_of(module, batches, layer)
    if not head.is_affine:
        raise ValueError(
            f"the output of the layer {head.name!r} must be the prediction itself; the module changes it after, "
            "which a linear solve cannot include. Train the network without it, or pass another layer=."
        )
    statistics = _statistics(module, head, batches)
    with_bias = head.layer.bias is not None
    spectrum = RidgeSpectrum.of_statistics(statistics, with_bias)
    strength = chosen_ridge(
        ridge, auto=lambda: last_layer_ridge(spectrum.trace, statistics.n_features), spectrum=lambda: spectrum
    )
    slopes, intercepts = statistics.coefficients(strength, with_bias)
    refitted = copied(module)
    _write(dict(refitted.named_modules())[head.name], slopes, intercepts if with_bias else None)
    return refitted


def _statistics(module: nn.Module, head: Head, batches: Batches | ArrayBatches) -> TriangularStatistics:
    """Add features and targets of all batches to a triangle, on the host."""
    statistics = None
    with head.watching(module) as run:
        for inputs, target in batches:
            seen = run(inputs)
            start = 0 if statistics is None else statistics.n_samples
            check_finite_from(seen.features, "the features of the module", start)
            features = wide_on_host(seen.features)
            known = None if target is None else targets(target, len(features))
            columns = columns_like(known, seen.prediction)
            if statistics is None:
                statistics = TriangularStatistics.empty(features.shape[1], columns.shape[1])
            statistics = statistics.add(features, columns)
    if statistics is None:
        raise ValueError(NO_ROWS)
    return statistics


@torch.no_grad()
def _write(layer: nn.Module, slopes: np.ndarray, intercepts: np.ndarray | None) -> None:
    """Write solved weights into a linear layer."""
    parameters = dict(layer.named_parameters(recurse=False))
    if "weight" not in parameters or (intercepts is not None and "bias" not in parameters):
        raise ValueError(
            "the weights of the head must be plain parameters to be solved for; this head is parametrised (weight "
            "norm, pruning). Remove the parametrisation first."
        )
    solved = {"weight": slopes.T} if intercepts is None else {"weight": slopes.T, "bias": intercepts}
    for name, values in solved.items():
        parameter = parameters[name]
        if not (np.abs(values) <= torch.finfo(parameter.dtype).max).all():
            raise ValueError(
                f"the {name} of the solution must fit into the {parameter.dtype} of the head; it has an entry of "
                f"{np.abs(values).max():.1e}. Rescale y or the features, or call module.double() first."
            )
        parameter.copy_(torch.from_numpy(values))
