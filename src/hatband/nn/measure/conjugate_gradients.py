"""Leverage of a whole network whose gradients do not fit into memory, from products with the gradients alone."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import vjp, vmap

from hatband.arrays.backend import on_host
from hatband.arrays.typing import Array
from hatband.checks import check_at_least, check_between
from hatband.nn.measure.batches import check_finite_from
from hatband.nn.measure.tangent import DoubleNetwork, expansion


class LeverageBracket(NamedTuple):
    """Bounds that hold for any result of the solver: lower <= h(x) <= upper."""

    lower: Array
    upper: Array
    iterations: int


def conjugate_gradient_leverage(
    module: nn.Module,
    X_train: Any,
    X: Any,
    *,
    ridge: float,
    tolerance: float = 1e-3,
    max_iterations: int = 500,
) -> LeverageBracket:
    """Bracket h(x) = J(x) (J'J + ridge I)^-1 J(x)' by conjugate gradients, without ever forming J.

    Parameters
    ----------
    module : nn.Module
        A trained network with one output.
    X_train : array (n, k)
        Training rows.
    X : array (m, k)
        Rows to measure.
    ridge : float
        > 0, in the sum convention, on all parameters; there is no free intercept.
    tolerance : float, default=1e-3
        Relative width of the bracket at which iteration stops.
    max_iterations : int, default=500
        After these the bracket is returned even if it is wider.

    Returns
    -------
    LeverageBracket
        Arrays (m,), and the number of iterations.

    Raises
    ------
    ValueError
        If ridge or tolerance is out of range, the module has more than one output, or something is not finite.

    Notes
    -----
    For any a: h <= |phi - J'a|^2 / ridge + |a|^2, with equality at a = (J J' + ridge I)^-1 J phi; for any z:
    h >= 2 phi'z - |J z|^2 - ridge |z|^2, taken at z = (phi - J'a) / ridge. Both errors are of second order in a.
    Iteration: Hestenes and Stiefel (1952); bounds of this kind: Gibbs and MacKay (1997), *Efficient implementation of
    Gaussian processes*. One iteration is a forward and a backward derivative of the whole training set for each row
    measured; memory m (n + p).

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import conjugate_gradient_leverage
    >>> net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 1))
    >>> bracket = conjugate_gradient_leverage(net, torch.randn(20, 2), torch.randn(5, 2), ridge=0.1)
    >>> bool((bracket.upper <= 1.001 * bracket.lower).all())
    True
    """
    check_between(ridge, 0.0, math.inf, "ridge", low_allowed=False)
    check_between(tolerance, 0.0, math.inf, "tolerance")
    check_at_least(max_iterations, 0, "max_iterations")
    network = DoubleNetwork.of(module)
    phi = torch.as_tensor(expansion(network, X).gradient, device=network.device)
    products = _products(network, _finite_rows(network, X_train))
    with torch.no_grad():
        return _bracket(phi, products, float(ridge), tolerance, max_iterations)


def _finite_rows(network: DoubleNetwork, X: Any) -> torch.Tensor:
    """Return training rows; ValueError if there is no row, or if an output of the network is not finite."""
    rows = network.rows(X)
    if not len(rows):
        raise ValueError("X_train must hold at least one row; got none.")
    with torch.no_grad():
        check_finite_from(network.outputs(network.parameters, rows), "what the module makes of X_train", 0)
    return rows


class _Products(NamedTuple):
    """Products of the gradients J (n, p) of the training rows with rows of vectors."""

    push: Callable[[torch.Tensor], torch.Tensor]
    """v (b, p) -> (J v)' (b, n)."""
    pull: Callable[[torch.Tensor], torch.Tensor]
    """a (b, n) -> (J'a)' (b, p)."""


def _products(network: DoubleNetwork, rows: torch.Tensor) -> _Products:
    """Return the products with J and J', by a backward pass and by the backward pass of it."""
    parameters = network.parameters
    sizes = [value.numel() for value in parameters.values()]

    def named(flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = zip(parameters.items(), flat.split(sizes), strict=True)
        return {name: part.reshape(value.shape) for (name, value), part in parts}

    def value(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return network.outputs(weights, rows)

    found, backward = vjp(value, parameters)
    # J'a is linear in a, so its derivative is J. Forward mode would compile scripts at its first use, and warn.
    _, forward = vjp(lambda a: backward(a)[0], torch.zeros_like(found))
    pull = vmap(lambda a: torch.cat([part.reshape(-1) for part in backward(a)[0].values()]))
    return _Products(vmap(lambda flat: forward(named(flat))[0]), pull)


def _bracket(
    phi: torch.Tensor, products: _Products, ridge: float, tolerance: float, max_iterations: int
) -> LeverageBracket:
    """Solve (J J' + ridge I) a = J phi for all rows at once, until the bracket is tight."""
    push, pull = products
    residual = push(phi)
    a, back = torch.zeros_like(residual), torch.zeros_like(phi)
    direction, square = residual.clone(), residual.square().sum(1, keepdim=True)
    lower, upper, iteration = *_bounds(phi, a, back, push, ridge), 0
    while iteration < max_iterations and bool((upper - lower > tolerance * upper).any()):
        pulled = pull(direction)
        image = push(pulled) + ridge * direction
        curvature = (direction * image).sum(1, keepdim=True)
        step = torch.where(curvature > 0, square / curvature, 0.0)
        a, back, residual = a + step * direction, back + step * pulled, residual - step * image
        fresh = residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(square > 0, fresh / square, 0.0) * direction
        square, iteration = fresh, iteration + 1
        lower, upper = _bounds(phi, a, back, push, ridge)
    return LeverageBracket(on_host(lower), on_host(upper), iteration)


def _bounds(
    phi: torch.Tensor, a: torch.Tensor, back: torch.Tensor, push: Callable[[torch.Tensor], torch.Tensor], ridge: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the certificates at a, with J'a given."""
    z = (phi - back) / ridge
    upper = ridge * z.square().sum(1) + a.square().sum(1)
    lower = 2 * (phi * z).sum(1) - push(z).square().sum(1) - ridge * z.square().sum(1)
    return lower.clamp(min=0.0), upper
