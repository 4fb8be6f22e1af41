"""The rows of one epoch of training: arrays in mini-batches drawn anew, or a loader as it is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from hatband.arrays.kinds import exact_device
from hatband.nn.measure.batches import as_tensor, check_real, placed

# Rows that go through the network at once where no gradient is kept.
BLOCK = 8192


class Batch(NamedTuple):
    """Inputs, targets (b, q), and weights (b,) of mean 1 over all rows, of some rows; None where all count alike."""

    inputs: Any
    targets: Any
    weight: Any = None


class EpochRows(ABC):
    """The rows of an epoch, on the device of the network."""

    @abstractmethod
    def shuffled(self) -> Iterator[Batch]:
        """Yield the batches of one epoch of training."""

    @abstractmethod
    def blocks(self) -> Iterator[Batch]:
        """Yield every row once, in large blocks where that can be chosen."""


class ShuffledRows(EpochRows):
    """Rows of two tensors, drawn anew for every epoch into batches of about one size.

    Batches of n // k or n // k + 1 rows: a last batch of one row would be an error in a BatchNorm layer.
    """

    def __init__(self, rows: Batch, batch_size: int, generator: torch.Generator) -> None:
        self._rows = rows if rows.weight is None else rows._replace(weight=_of_mean_one(rows.weight))
        self._parts = -(-len(rows.targets) // batch_size)
        self._generator = generator

    def shuffled(self) -> Iterator[Batch]:
        """Yield batches in an order drawn from the generator."""
        targets = self._rows.targets
        order = torch.randperm(len(targets), generator=self._generator, device="cpu").to(targets.device)
        for index in order.tensor_split(self._parts):
            yield taken(self._rows, index)

    def blocks(self) -> Iterator[Batch]:
        """Yield blocks of 8,192 rows in their own order."""
        for start in range(0, len(self._rows.targets), BLOCK):
            yield taken(self._rows, slice(start, start + BLOCK))


class LoaderRows(EpochRows):
    """Batches (inputs, targets) as a loader gives them; floating inputs get the type, unless it is None."""

    def __init__(self, loader: Iterable[tuple[Any, Any]], device: Any, dtype: Any) -> None:
        self._loader = loader
        self._device = device
        self._dtype = dtype

    def shuffled(self) -> Iterator[Batch]:
        """Yield the loader's batches: its own sampler shuffles, or does not."""
        return self.blocks()

    def blocks(self) -> Iterator[Batch]:
        """Yield the loader's batches, moved to the device."""
        for inputs, targets in self._loader:
            if targets is None:
                raise ValueError(
                    "rows to train on, and rows to stop by, need targets; pass y, or a loader of batches (inputs, y)."
                )
            yield Batch(placed(inputs, self._device, self._dtype), columns_on(self._device, targets))


def taken(rows: Batch, index: Any) -> Batch:
    """Return the rows at an index or in a slice; targets may lie on another device than inputs."""
    fixed = isinstance(index, slice)
    return Batch(*(None if part is None else part[index if fixed else index.to(part.device)] for part in rows))


def _of_mean_one(weight: Any) -> Any:
    """Return weights divided by their mean; by their largest first, for those whose sum is beyond all numbers."""
    shares = weight / weight.max()
    return shares / shares.mean()


def columns_on(device: Any, y: Any) -> Any:
    """Return targets as a tensor (n, q) in their own precision, on the device if that has float64."""
    check_real(y)
    values = as_tensor(y)
    # True - 0.5 is no subtraction to torch.
    values = values.float() if values.dtype == torch.bool else values
    return (values[:, None] if values.ndim == 1 else values).to(exact_device(device))
