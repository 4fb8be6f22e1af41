"""Where the rows of one epoch come from: arrays in shuffled batches, or a loader."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from hatband._typing import Array
from hatband._validation import check_finite

# Rows that go through the network at once where no gradient is kept.
BLOCK = 8192


class Batch(NamedTuple):
    """Inputs, and targets (b, q), of some rows."""

    inputs: Any
    targets: Any


class Batches(ABC):
    """The rows of an epoch, on the device of the network."""

    @abstractmethod
    def shuffled(self) -> Iterator[Batch]:
        """Yield the batches of one epoch of training."""

    @abstractmethod
    def blocks(self) -> Iterator[Batch]:
        """Yield every row once, in large blocks where that can be chosen."""


class ArrayBatches(Batches):
    """Rows of two tensors, drawn anew for every epoch into batches of about one size.

    Batches of n // k or n // k + 1 rows: a last batch of one row would be an error in a BatchNorm layer.
    """

    def __init__(self, inputs: Any, targets: Any, batch_size: int, generator: torch.Generator | None = None) -> None:
        self._inputs = inputs
        self._targets = targets
        self._parts = -(-len(targets) // batch_size)
        self._generator = generator

    def shuffled(self) -> Iterator[Batch]:
        """Yield batches in an order drawn from the generator."""
        order = torch.randperm(len(self._targets), generator=self._generator).to(self._targets.device)
        for index in order.tensor_split(self._parts):
            yield Batch(self._inputs[index], self._targets[index])

    def blocks(self) -> Iterator[Batch]:
        """Yield blocks of 8,192 rows in their own order."""
        for start in range(0, len(self._targets), BLOCK):
            yield Batch(self._inputs[start : start + BLOCK], self._targets[start : start + BLOCK])


class LoaderBatches(Batches):
    """Batches (inputs, targets, ...) as a loader gives them; floating inputs get the type, unless it is None."""

    def __init__(self, loader: Iterable[Any], device: Any, dtype: Any) -> None:
        self._loader = loader
        self._device = device
        self._dtype = dtype

    def shuffled(self) -> Iterator[Batch]:
        """Yield the loader's batches: its own sampler shuffles, or does not."""
        return self.blocks()

    def blocks(self) -> Iterator[Batch]:
        """Yield the loader's batches, moved to the device."""
        for inputs, targets, *_ in self._loader:
            yield Batch(_moved(inputs, self._device, self._dtype), as_targets(targets, self._device))


def as_inputs(X: Any, device: Any) -> Any:
    """Return inputs as a finite floating tensor on the device, in their own precision."""
    tensor = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.array(X, dtype=_floating(X)))
    check_finite(tensor.detach().cpu().numpy(), "X")
    return tensor.to(device)


def as_targets(y: Any, device: Any) -> Any:
    """Return targets as a tensor (n, q) on the device, in their own precision."""
    values = y if isinstance(y, torch.Tensor) else torch.from_numpy(np.array(y, dtype=np.float64))
    columns = values[:, None] if values.ndim == 1 else values
    return columns.to(device)


def _floating(X: Any) -> Any:
    dtype = getattr(X, "dtype", None)
    return np.float32 if dtype == np.float32 else np.float64


def _moved(inputs: Any, device: Any, dtype: Any) -> Any:
    cast = dtype is not None and inputs.is_floating_point()
    return inputs.to(device=device, dtype=dtype) if cast else inputs.to(device)


class Moments(NamedTuple):
    """Mean and standard deviation of columns; a column that does not vary has scale 1."""

    mean: Array
    scale: Array

    def to(self, device: Any) -> "Moments":
        """Return them on a device."""
        return Moments(self.mean.to(device), self.scale.to(device))


def moments(blocks: Iterable[Any]) -> Moments:
    """Return mean and standard deviation of the columns of blocks (b, k), summed in float64.

    Pairs of means and squares are merged: Chan, Golub and LeVeque (1983), eq. 2.1.
    """
    count, mean, square = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for block in blocks:
        values = block.detach().cpu().to(torch.float64)
        total = count + len(values)
        own = values.mean(dim=0)
        step = own - mean
        square = square + ((values - own) ** 2).sum(dim=0) + step**2 * (count * len(values) / total)
        mean, count = mean + step * (len(values) / total), total
    if not count:
        raise ValueError("the loader gave no batch; pass one with at least one row.")
    scale = (square / count).sqrt()
    # Rounding leaves a constant column a spread of about eps times its size.
    return Moments(mean, torch.where(scale > 1e-12 * mean.abs(), scale, torch.ones_like(scale)))
