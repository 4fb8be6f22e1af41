"""Which rows a network is trained on, and which say when to stop."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn.utils import check_consistent_length

from hatband._checks_network import check_validation_size
from hatband.arrays.kinds import exact_device
from hatband.checks import check_finite, check_target, check_weights
from hatband.nn.measure.batches import as_array, as_batches, numbers, placed
from hatband.nn.train.epochs import Batch, EpochRows, LoaderRows, ShuffledRows, columns_on, taken

# The rows to train on, and those to stop by.
Division: TypeAlias = tuple[EpochRows, EpochRows | None]


class Source(NamedTuple):
    """How rows reach the network."""

    device: Any
    dtype: Any
    # An MLP subtracts its mean in the precision of the rows; other modules want rows in their own.
    keeps_precision: bool
    batch_size: int

    @property
    def input_dtype(self) -> Any:
        """Type of floating-point inputs; None for their own, which not every device has."""
        return None if self.keeps_precision and exact_device(self.device) == self.device else self.dtype

    def arrays(self, X: Any, y: Any, sample_weight: Any = None) -> Batch:
        """Return checked rows, those of weight 0 left out, on the device of the network."""
        target, _ = check_target(as_array(y))
        inputs = placed(_inputs(X), self.device, self.input_dtype)
        check_consistent_length(inputs, target)
        # Targets in float64 until they are standardised: y may lie far from 0.
        rows = Batch(inputs, columns_on(self.device, target))
        if sample_weight is None:
            return rows
        weight = torch.from_numpy(check_weights(as_array(sample_weight), len(target))).to(rows.targets.device)
        return taken(rows._replace(weight=weight), weight > 0)

    def given(self, X: Any, y: Any = None, sample_weight: Any = None, *, seed: int) -> EpochRows:
        """Return rows of an array X with y, or of a loader X."""
        if y is not None:
            return self._shuffled(self.arrays(X, y, sample_weight), seed)
        if sample_weight is not None:
            raise ValueError("sample_weight belongs beside arrays X and y; rows of a loader all count alike.")
        return LoaderRows(as_batches(X), self.device, self.input_dtype)

    def with_validation(self, rows: tuple[Any, Any, Any], validation: Any, seed: int) -> Division:
        """Return the rows to train on, and the rows given to stop by, if any."""
        training = self.given(*rows, seed=seed)
        if validation is None:
            return training, None
        parts = validation if isinstance(validation, tuple) else (validation,)
        if len(parts) > 3:
            raise ValueError(f"validation must be (X, y), (X, y, sample_weight) or a loader; got {len(parts)} parts.")
        return training, self.given(*parts, seed=seed)

    def held_out(self, rows: tuple[Any, Any, Any], size: Any, random: Any, seed: int) -> Division:
        """Return rows drawn to train on and, unless the size is 0, the others to stop by."""
        known = self.arrays(*rows)
        held = check_validation_size(size, len(known.targets))
        order = torch.from_numpy(random.permutation(len(known.targets))).to(known.targets.device)
        kept, stop = taken(known, order[held:]), taken(known, order[:held])
        return self._shuffled(kept, seed), self._shuffled(stop, seed) if held else None

    def _shuffled(self, rows: Batch, seed: int) -> ShuffledRows:
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
