"""The head of a network: its last linear layer, found in the order of execution, and the features that enter it."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from hatband.arrays.backend import EPS
from hatband.arrays.typing import Array
from hatband.formulas.ridge_choice import last_layer_ridge
from hatband.linalg import GramStatistics
from hatband.nn.measure.batches import called, home, placed, wide_on_host
from hatband.nn.measure.parameter_subset import ForwardPass, Intercept, Part
from hatband.nn.measure.state import check_initialised, evaluating

Pooling: TypeAlias = Literal["row", "first", "last", "mean"]
_NO_KEYWORDS: Mapping[str, Any] = MappingProxyType({})

# What makes one row of the outputs (n, tokens, q) of a head, and so of its features: the layer is affine.
_POOLINGS: dict[Pooling, Callable[[torch.Tensor], torch.Tensor]] = {
    "first": lambda tokens: tokens[:, 0],
    "last": lambda tokens: tokens[:, -1],
    "mean": lambda tokens: tokens.mean(dim=1),
}
# A solved head satisfies its normal equations to this; one trained by gradients seldom to 1e-3.
_STATIONARY = 1e-6


@dataclass(frozen=True, eq=False)
class Head(Part):
    """The linear layer f = W phi + b that a network ends in.

    Parameters
    ----------
    name : str
        Its name among the modules of the network.
    layer : nn.Linear
        The layer itself.
    pooling : {"row", "first", "last", "mean"}
        How features (n, tokens, d) become (n, d): not at all, or as the network makes its output from the tokens.
    member : int or None
        Which member of a tuple that the network returns is the prediction; None where it returns a tensor.
    is_affine : bool
        Whether the prediction is W phi + b itself, and not an activation of it.
    """

    name: str
    layer: nn.Linear
    pooling: Pooling
    member: int | None
    is_affine: bool

    def features(self, entering: torch.Tensor) -> torch.Tensor:
        """Return features (n, d) from what entered the layer, in float32 or float64, as a copy."""
        values = entering.detach()
        values = values if values.dtype in {torch.float32, torch.float64} else values.float()
        return _pooled(values, self.pooling).clone()

    def prediction(self, output: Any, n_rows: int) -> tuple[torch.Tensor, bool]:
        """Return the prediction (n, q) from the output of the network, and whether the output had no axis for q."""
        found = (output if self.member is None else output[self.member]).detach()
        # A squeeze() in the network takes the axis of the rows as well when there is one row.
        if n_rows != 1 and (not found.ndim or len(found) != n_rows):
            raise ValueError(
                f"the layer {self.name!r} must get one row of features per row of the prediction; got {n_rows} rows of "
                f"features for a prediction of shape {tuple(found.shape)}."
            )
        return found.reshape(n_rows, -1), found.ndim < 2

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[Callable[[Any], ForwardPass]]:
        """Give a function that runs the module on a batch and returns the inputs of the head and the output."""
        device, dtype = home(module)
        entered: list[torch.Tensor] = []
        owner = threading.get_ident()

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = _NO_KEYWORDS) -> None:
            # Another thread may be using the module too; torch calls it without kwargs until it is registered whole.
            if threading.get_ident() == owner:
                # At once: what follows may write into the same memory.
                entered[:] = [self.features(args[0] if args else kwargs["input"])]

        def run(inputs: Any) -> ForwardPass:
            entered.clear()
            there = placed(inputs, device, dtype)
            output = called(module, there)
            if not entered:
                raise ValueError(f"the layer {self.name!r} was not called in a forward pass; pass another layer.")
            features = entered.pop()
            return ForwardPass(there, features, *self.prediction(output, len(features)))

        handle = self.layer.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with evaluating(module):
                yield run
        finally:
            handle.remove()

    def pieces(self, module: nn.Module, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield the batches: their features are no larger than what the module computes anyway."""
        yield from batches

    def intercept(self, penalise_bias: bool) -> Intercept:
        """Return the role of the bias of the layer in the Gram matrix."""
        if self.layer.bias is None:
            return "none"
        return "penalised" if penalise_bias else "free"

    def default_ridge(self, trace: float, n_samples: int, n_features: int) -> float:
        """Return a ten-thousandth of the mean eigenvalue, 0 where no feature varies."""
        return last_layer_ridge(trace, n_features)

    def own_ridge(self, statistics: GramStatistics, intercept: Intercept, ridge: Any) -> float | None:
        """Return the ridge at which the layer is the ridge regression on these rows; None if there is none."""
        return own_ridge(statistics, self.layer, intercept, ridge) if self.is_affine else None


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a linear layer."""

    name: str
    layer: nn.Linear
    entering: torch.Tensor
    output: torch.Tensor


def find_head(module: nn.Module, inputs: Any, layer: str | nn.Module | None = None) -> Head:
    """Return the linear layer whose output is the prediction, found in one forward pass.

    Parameters
    ----------
    module : nn.Module
        The network; it is left as it was found.
    inputs : tensor, tuple or dict
        A batch.
    layer : str, nn.Module or None
        The head, by name or itself. None: the one linear layer whose output the module returns, reshaped, or reduced
        over tokens; else the last that was executed, if the module returns a monotone activation of its output.

    Returns
    -------
    Head

    Raises
    ------
    ValueError
        If no layer, or more than one, fits: the message lists the candidates and what to pass.

    Notes
    -----
    Features (n, tokens, d) become (n, d) as the outputs (n, tokens, q) become the prediction: the first token, the last
    or their mean; of a layer that is named, and followed by something else, the mean. Cost: one forward pass.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import find_head
    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    >>> find_head(net, torch.zeros(5, 3)).name
    '2'
    """
    calls, output = _executed(module, inputs)
    members = _members(output)
    if layer is not None:
        return _named(module, layer, calls, members)
    fits = [head for call in calls for head in [_fit(call, members)] if head is not None]
    if len(fits) == 1:
        return fits[0]
    if not fits and calls:
        activated = _activated(calls[-1], members)
        if activated is not None:
            return activated
    raise ValueError(_candidates(calls, [head.name for head in fits]))


def _executed(module: nn.Module, inputs: Any) -> tuple[list[_Call], Any]:
    """Run the module once; return the last call of each linear layer, in the order of execution, and the output."""
    check_initialised(module)
    seen: dict[str, _Call] = {}
    handles = []

    def record(name: str) -> Callable[..., None]:
        def keep(layer: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            seen.pop(name, None)
            seen[name] = _Call(name, layer, args[0] if args else kwargs["input"], output.clone())

        return keep

    try:
        for name, part in module.named_modules():
            if isinstance(part, nn.Linear):
                handles.append(part.register_forward_hook(record(name), with_kwargs=True))
        with evaluating(module):
            output = called(module, placed(inputs, *home(module)))
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values()), output


def _members(output: Any) -> list[tuple[int | None, torch.Tensor]]:
    """Return the tensors in the output of a module, each with its position."""
    if isinstance(output, torch.Tensor):
        return [(None, output)]
    if isinstance(output, (tuple, list)):
        return [(place, part) for place, part in enumerate(output) if isinstance(part, torch.Tensor)]
    raise ValueError(
        f"the module must return a tensor, or a tuple that holds the prediction; got {type(output).__name__}. Wrap it "
        "in a module that returns the prediction."
    )


def _pooled(values: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    if values.ndim == 1:
        return values[None]
    if pooling == "row":
        return values.reshape(len(values), -1)
    return _POOLINGS[pooling](values.reshape(len(values), -1, values.shape[-1]))


def _fit(call: _Call, members: list[tuple[int | None, torch.Tensor]]) -> Head | None:
    """Return the head that this layer is if a member of the output is its output, reshaped or reduced over tokens."""
    for place, found in members:
        if call.output.ndim == 2 and found.numel() == call.output.numel():
            if _same(call.output, found, exactly=True):
                return Head(call.name, call.layer, "row", place, True)
        elif call.output.ndim > 2 and found.ndim <= 2:
            for pooling in _POOLINGS:
                if _same(_pooled(call.output, pooling), found):
                    return Head(call.name, call.layer, pooling, place, True)
    return None


def _same(mine: torch.Tensor, found: torch.Tensor, *, exactly: bool = False) -> bool:
    """Whether two tensors hold the same numbers in the same order; NaN is checked later."""
    if mine.numel() != found.numel() or not found.is_floating_point():
        return False
    # Mixed precision: a network may hand out its output in another type.
    mine = mine.to(found.dtype)
    largest = 0.0 if exactly else float(mine.nan_to_num().abs().max())
    tolerance = 64 * torch.finfo(mine.dtype).eps * largest
    return torch.allclose(mine.reshape(-1), found.reshape(-1), rtol=0.0, atol=tolerance, equal_nan=True)


def _activated(call: _Call, members: list[tuple[int | None, torch.Tensor]]) -> Head | None:
    """Return the head that this layer is if the module returns a monotone function of each of its outputs."""
    if call.output.ndim != 2 or len(members) != 1:
        return None
    (place, found), before = members[0], call.output
    if found.numel() != before.numel() or len(before) < 3:
        return None
    steps = found.reshape(before.shape).gather(0, before.argsort(dim=0)).diff(dim=0)
    rising, falling = (steps >= 0).all(dim=0), (steps <= 0).all(dim=0)
    return Head(call.name, call.layer, "row", place, False) if bool((rising | falling).all()) else None


def _named(
    module: nn.Module, layer: str | nn.Module, calls: list[_Call], members: list[tuple[int | None, torch.Tensor]]
) -> Head:
    """Return the head that the user named, whatever the module does after it."""
    names = dict(module.named_modules())
    matches = [call for call in calls if call.name == layer or call.layer is layer]
    if not matches:
        what = repr(layer) if isinstance(layer, str) else type(layer).__name__
        known = isinstance(layer, str) and layer in names and not isinstance(names[layer], nn.Linear)
        apart = isinstance(layer, nn.Module) and not any(part is layer for part in module.modules())
        reason = f"is {type(names[layer]).__name__}, not an nn.Linear" if known else "was not called as an nn.Linear"
        reason = "is not part of the module (clone copies both separately): pass its name" if apart else reason
        fits = [head.name for call in calls for head in [_fit(call, members)] if head is not None]
        raise ValueError(f"layer={what} {reason}. {_candidates(calls, fits)}")
    fit = _fit(matches[0], members)
    if fit is not None:
        return fit
    tokens = matches[0].entering.ndim > 2
    place = members[0][0] if members else None
    return Head(matches[0].name, matches[0].layer, "mean" if tokens else "row", place, False)


def _candidates(calls: list[_Call], fits: list[str]) -> str:
    if not calls:
        return (
            "The module called no nn.Linear layer in a forward pass, so it has no linear head to take features from. "
            "Wrap it in a module that ends in one; instead of a ScriptModule, pass the module that was compiled."
        )
    if all(call.output.ndim == 1 for call in calls):
        return (
            f"Rows must come in batches, with an axis for the rows; {calls[-1].name!r} got shape "
            f"{tuple(calls[-1].entering.shape)}. Give the DataLoader a batch_size."
        )
    listed = ", ".join(f"{c.name!r} ({c.layer.in_features} -> {c.layer.out_features})" for c in calls)
    several = f"{len(fits)} layers return members of the output, {fits}" if fits else "none returns the output"
    seen = f"{fits[0]!r} is one" if len(fits) == 1 else several
    return (
        f"The head must be one linear layer whose output the module returns; {seen}. Linear layers in the order of "
        f"execution: {listed}. Name the head: layer={' or '.join(map(repr, fits or [calls[-1].name]))}."
    )


def own_ridge(statistics: GramStatistics, layer: nn.Linear, intercept: Intercept, ridge: Any) -> float | None:
    """Return the ridge r at which Phi'e = r W holds for a layer on these rows, if it exists and is allowed.

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
