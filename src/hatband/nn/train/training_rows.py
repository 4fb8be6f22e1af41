"""The rows that train a network, the rows for early stopping, and their batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn.utils import check_consistent_length

from hatband.arrays.backend import exact_device
from hatband.checks import check_at_least, check_between, check_finite, check_target, check_weights
from hatband.nn.measure.batches import as_array, as_batches, as_tensor, check_real, numbers, placed

# Rows that go through the network at once where no gradient is kept.
BLOCK = 8192


class TrainingBatch(NamedTuple):
    """Inputs, targets (b, q) and weights (b,) of some rows; weights have mean 1 over all rows, None: all 1."""

    inputs: Any
    targets: Any
    weight: Any = None


class EpochRows(ABC):
    """The rows of an epoch, on the device of the network."""

    @abstractmethod
    def shuffled(self) -> Iterator[TrainingBatch]:
        """Yield the batches of one epoch of training."""

    @abstractmethod
    def blocks(self) -> Iterator[TrainingBatch]:
        """Yield every row once, in large blocks if the size can be chosen."""


class ShuffledRows(EpochRows):
    """Rows of two tensors, drawn for every epoch into batches of nearly equal size.

    Batches of n // k or n // k + 1 rows: a last batch of one row would be an error in a BatchNorm layer.
    """

    def __init__(self, rows: TrainingBatch, batch_size: int, generator: torch.Generator) -> None:
        self._rows = rows if rows.weight is None else rows._replace(weight=_of_mean_one(rows.weight))
        self._parts = -(-len(rows.targets) // batch_size)
        self._generator = generator

    def shuffled(self) -> Iterator[TrainingBatch]:
        """Yield batches in an order drawn from the generator."""
        targets = self._rows.targets
        order = torch.randperm(len(targets), generator=self._generator, device="cpu").to(targets.device)
        for index in order.tensor_split(self._parts):
            yield taken(self._rows, index)

    def blocks(self) -> Iterator[TrainingBatch]:
        """Yield blocks of 8,192 rows in their own order."""
        for start in range(0, len(self._rows.targets), BLOCK):
            yield taken(self._rows, slice(start, start + BLOCK))


class LoaderRows(EpochRows):
    """Batches (inputs, targets) as a loader gives them; floating inputs get the type, unless it is None."""

    def __init__(self, loader: Iterable[tuple[Any, Any]], device: Any, dtype: Any) -> None:
        self._loader = loader
        self._device = device
        self._dtype = dtype

    def shuffled(self) -> Iterator[TrainingBatch]:
        """Yield the loader's batches: its own sampler decides the order."""
        return self.blocks()

    def blocks(self) -> Iterator[TrainingBatch]:
        """Yield the loader's batches, moved to the device."""
        for inputs, targets in self._loader:
            if targets is None:
                raise ValueError(
                    "rows for training and for early stopping need targets; pass y, or a loader of batches (inputs, y)."
                )
            yield TrainingBatch(placed(inputs, self._device, self._dtype), columns_on(self._device, targets))


def taken(rows: TrainingBatch, index: Any) -> TrainingBatch:
    """Return the rows at an index or in a slice; targets may lie on another device than inputs."""
    fixed = isinstance(index, slice)
    return TrainingBatch(*(None if part is None else part[index if fixed else index.to(part.device)] for part in rows))


def _of_mean_one(weight: Any) -> Any:
    """Return weights divided by their mean; first by their largest, because their sum could overflow."""
    shares = weight / weight.max()
    return shares / shares.mean()


def columns_on(device: Any, y: Any) -> Any:
    """Return targets as a tensor (n, q) in their own precision, on the device if that has float64."""
    check_real(y)
    values = as_tensor(y)
    # torch does not subtract from booleans.
    values = values.float() if values.dtype == torch.bool else values
    return (values[:, None] if values.ndim == 1 else values).to(exact_device(device))


# The rows for training, and those for early stopping.
Division: TypeAlias = tuple[EpochRows, EpochRows | None]


class RowFeed(NamedTuple):
    """Device, type and batches in which rows go to the network."""

    device: Any
    dtype: Any
    # An MLP subtracts its mean in the precision of the rows; other modules want rows in their own.
    keeps_precision: bool
    batch_size: int

    @property
    def input_dtype(self) -> Any:
        """Type of floating-point inputs; None for their own, which not every device has."""
        return None if self.keeps_precision and exact_device(self.device) == self.device else self.dtype

    def arrays(self, X: Any, y: Any, sample_weight: Any = None) -> TrainingBatch:
        """Return checked rows of weight > 0, on the device of the network."""
        target, _ = check_target(as_array(y))
        inputs = placed(_inputs(X), self.device, self.input_dtype)
        check_consistent_length(inputs, target)
        # Targets in float64 until they are standardised: y may lie far from 0.
        rows = TrainingBatch(inputs, columns_on(self.device, target))
        if sample_weight is None:
            return rows
        weight = torch.from_numpy(check_weights(as_array(sample_weight), len(target))).to(rows.targets.device)
        return taken(rows._replace(weight=weight), weight > 0)

    def given(self, X: Any, y: Any = None, sample_weight: Any = None, *, seed: int) -> EpochRows:
        """Return rows of an array X with y, or of a loader X."""
        if y is not None:
            return self._shuffled(self.arrays(X, y, sample_weight), seed)
        if sample_weight is not None:
            raise ValueError("pass sample_weight only with arrays X and y; rows of a loader have equal weight.")
        return LoaderRows(as_batches(X), self.device, self.input_dtype)

    def with_validation(self, rows: tuple[Any, Any, Any], validation: Any, seed: int) -> Division:
        """Return the rows for training, and those given for early stopping, if any."""
        training = self.given(*rows, seed=seed)
        if validation is None:
            return training, None
        parts = validation if isinstance(validation, tuple) else (validation,)
        if len(parts) > 3:
            raise ValueError(f"validation must be (X, y), (X, y, sample_weight) or a loader; got {len(parts)} parts.")
        return training, self.given(*parts, seed=seed)

    def held_out(self, rows: tuple[Any, Any, Any], size: Any, random: Any, seed: int) -> Division:
        """Return rows drawn for training and, unless the size is 0, the remaining rows for early stopping."""
        known = self.arrays(*rows)
        held = check_validation_size(size, len(known.targets))
        order = torch.from_numpy(random.permutation(len(known.targets))).to(known.targets.device)
        kept, stop = taken(known, order[held:]), taken(known, order[:held])
        return self._shuffled(kept, seed), self._shuffled(stop, seed) if held else None

    def _shuffled(self, rows: TrainingBatch, seed: int) -> ShuffledRows:
        return ShuffledRows(rows, self.batch_size, torch.Generator().manual_seed(seed))


def _inputs(X: Any) -> Any:
    """Return inputs as a finite floating tensor in their own precision."""
    if isinstance(X, torch.Tensor):
        tensor = X
    else:
        values = numbers(X)
        tensor = torch.from_numpy(np.array(values, np.float32 if values.dtype == np.float32 else np.float64))
    if not bool(torch.isfinite(tensor).all()):
        check_finite(as_array(tensor), "X")
    return tensor


def check_validation_size(validation_size: Any, n_samples: int) -> int:
    """Return how many of n_samples rows are held out; a fraction is rounded, to at least 1."""
    if isinstance(validation_size, Integral) and not isinstance(validation_size, bool):
        size = check_at_least(validation_size, 0, "validation_size")
    else:
        fraction = check_between(validation_size, 0.0, 1.0, "validation_size")
        size = max(1, round(n_samples * fraction)) if fraction else 0
    if size >= n_samples:
        raise ValueError(
            f"validation_size={validation_size!r} holds out {size} of n_samples = {n_samples} rows, which leaves none "
            "to train on; pass more rows, or validation_size=0 to train without early stopping."
        )
    return size
