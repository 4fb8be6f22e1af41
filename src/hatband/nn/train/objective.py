"""The losses of training, in units in which the target has mean 0 and variance 1."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import torch

from hatband.arrays.backend import exact_device, on_host
from hatband.arrays.typing import Array
from hatband.linalg.moments import Centre
from hatband.nn.measure.batches import called, home, moved
from hatband.nn.train.mlp import MLP, NoisyNetwork, check_built_for
from hatband.nn.train.training_rows import EpochRows, TrainingBatch


class Moments(NamedTuple):
    """Mean and standard deviation of columns; a column that does not vary has scale 1."""

    mean: Array
    scale: Array

    def to(self, device: Any) -> "Moments":
        """Return them on a device."""
        return Moments(self.mean.to(device), self.scale.to(device))


def moments(blocks: Iterable[tuple[Any, Any]]) -> Moments:
    """Return mean and standard deviation of the columns of blocks (b, k) of rows with weights (b,), or None for 1.

    Summed in float64, where the blocks are; their means and squares are merged.
    """
    whole: Centre | None = None
    square: Any = 0.0
    for block, given in blocks:
        values = moved(block.detach(), exact_device(block.device), torch.float64)
        weight = values.new_ones(len(values)) if given is None else given.to(values)
        added = float(weight.sum())
        if not added:
            continue
        own = Centre(len(values), added, weight @ values / added)
        square = square + weight @ (values - own.mean) ** 2
        if whole is None:
            whole = own
        else:
            whole, between = whole.merged(own)
            square = square + between**2
    if whole is None:
        raise ValueError("the loader yielded no batch; pass a loader with at least one row.")
    scale = (square / whole.weight).sqrt()
    # Rounding leaves a constant column a spread of about eps times its size.
    varies = (scale > 1e-12 * whole.mean.abs()) | ~torch.isfinite(scale)
    return Moments(whole.mean, torch.where(varies, scale, torch.ones_like(scale)))


class Units(NamedTuple):
    """Shift and scale by which targets and outputs get mean 0 and variance 1."""

    target: Moments
    output: Moments

    def errors(self, output: Any, target: Any) -> Any:
        """Return target - output in standard units, in the precision of the output."""
        wanted = ((target - self.target.mean) / self.target.scale).to(output)
        return wanted - (output - self.output.mean.to(output)) / self.output.scale.to(output)


@singledispatch
@contextmanager
def standard_units(module: Any, rows: EpochRows) -> Iterator[Units]:
    """Train a module that predicts in units of y; only the loss is in standard units."""
    target = _of_targets(module, rows)
    yield Units(target, target)


@standard_units.register
@contextmanager
def _standard_units_inside(module: MLP, rows: EpochRows) -> Iterator[Units]:
    """Train a perceptron on standardised inputs and target, and leave it in units of y."""
    inputs = moments((_table(batch.inputs, module), batch.weight) for batch in rows.blocks())
    _check_standardisable(inputs, module, "X")
    module.set_inputs(*inputs)
    target = _of_targets(module, rows)
    check_built_for((1, len(target.mean)), module.head.out_features, "y")
    with module.standard_target(*target):
        yield Units(target, Moments(torch.zeros_like(target.mean), torch.ones_like(target.scale)))


def _of_targets(module: Any, rows: EpochRows) -> Moments:
    found = moments((batch.targets, batch.weight) for batch in rows.blocks())
    _check_standardisable(found, module, "y")
    return found.to(exact_device(home(module)[0]))


def _check_standardisable(found: Moments, module: Any, name: str) -> None:
    """Raise unless the type of the weights can represent mean and spread of every column."""
    range_ = torch.finfo(home(module)[1])
    low, high = 10 * range_.tiny, range_.max / 10
    mean, scale = on_host(found.mean), on_host(found.scale)
    bad = ~((np.abs(mean) < high) & (scale > low) & (scale < high))
    if bad.any():
        j = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"column {j} of {name} must have a finite mean and a standard deviation that its type can hold, from "
            f"{low:.0e} to {high:.0e}; got mean {mean[j]:.3g} and standard deviation {scale[j]:.3g}. Drop rows "
            "that hold NaN or infinity, and rescale the column."
        )


def _table(inputs: Any, module: MLP) -> Any:
    check_built_for(tuple(inputs.shape), len(module.input_mean), "X")
    return inputs


def _squared_error(module: Any, batch: TrainingBatch, units: Units) -> Any:
    output = _columns(called(module, batch.inputs), batch.targets, module)
    return _mean(units.errors(output, batch.targets) ** 2, batch.weight)


def _gaussian(module: Any, batch: TrainingBatch, units: Units) -> Any:
    mean, log_noise = (_columns(part, batch.targets, module) for part in module.mean_and_log_noise(batch.inputs))
    log_noise = log_noise - units.output.scale.to(log_noise).log()
    # -log N(y; mu, sigma^2) without its constant.
    return _mean(0.5 * (units.errors(mean, batch.targets) * (-log_noise).exp()) ** 2 + log_noise, batch.weight)


def _mean(losses: Any, weight: Any) -> Any:
    """Return the mean of losses (b, q), weighted by row; weights have mean 1 over all batches."""
    return losses.mean() if weight is None else (losses.mean(dim=1) * weight.to(losses)).mean()


LOSSES: Mapping[str, Callable[[Any, TrainingBatch, Units], Any]] = {"squared": _squared_error, "gaussian": _gaussian}


def _columns(output: Any, target: Any, module: Any) -> Any:
    """Return outputs (b, q); one value per row may have no axis for outputs, but nothing is broadcast."""
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"{type(module).__name__} must return a tensor to be trained; got {type(output).__name__}.")
    # A squeeze() in the network takes the axis of the rows as well when there is one row.
    alone = len(target) == 1 and output.numel() == target.numel()
    columns = output.reshape(target.shape) if alone else output[:, None] if output.ndim == 1 else output
    _check_outputs(tuple(columns.shape), tuple(target.shape), type(module).__name__)
    return columns


def check_loss(module: Any, loss: str) -> None:
    """Raise unless the module predicts what the loss needs."""
    silent = isinstance(module, MLP) and module.noise_head is None
    noisy = isinstance(module, NoisyNetwork) and not silent
    if loss == "gaussian" and not noisy:
        raise ValueError(
            'loss="gaussian" needs a module with mean_and_log_noise(x) -> (mean, log sigma), such as '
            f"MLP(noise_head=True); {type(module).__name__} has none."
        )


def _check_outputs(shape: tuple[int, ...], expected: tuple[int, ...], name: str) -> None:
    """Raise unless a network returned one value per row and output, so that it is never broadcast against y."""
    if shape != expected:
        raise ValueError(
            f"{name} must return one value per row and output, shape {expected} like y; got shape {shape}."
        )
