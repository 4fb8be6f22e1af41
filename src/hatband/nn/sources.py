"""Which rows a network is trained on, and which say when to stop."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_consistent_length

from hatband._checks_network import check_validation_size
from hatband._validation import check_finite, check_target
from hatband.nn.batches import as_batches
from hatband.nn.epochs import Batch, EpochRows, LoaderRows, ShuffledRows, columns_on, taken


class Source(NamedTuple):
    """How rows reach the network."""

    device: Any
    dtype: Any
    # An MLP subtracts its mean in the precision of the rows; other modules want rows in their own.
    keeps_precision: bool
    batch_size: int

    def arrays(self, X: Any, y: Any) -> Batch:
        """Return checked rows on the device of the network."""
        target, _ = check_target(y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else y)
        inputs = _inputs(X).to(self.device)
        check_consistent_length(inputs, target)
        # Targets in float64 until they are standardised: y may lie far from 0.
        return Batch(inputs if self.keeps_precision else inputs.to(self.dtype), columns_on(self.device, target))

    def given(self, X: Any, y: Any, seed: int) -> EpochRows:
        """Return rows of an array X with y, or of a loader X."""
        if y is not None:
            return self._shuffled(self.arrays(X, y), seed)
        return LoaderRows(as_batches(X), self.device, None if self.keeps_precision else self.dtype)

    def with_validation(self, X: Any, y: Any, validation: Any, seed: int) -> tuple[EpochRows, EpochRows | None]:
        """Return the rows to train on, and the rows given to stop by, if any."""
        training = self.given(X, y, seed)
        if validation is None:
            return training, None
        pair = validation if isinstance(validation, tuple) else (validation, None)
        return training, self.given(pair[0], pair[1], seed)

    def held_out(self, X: Any, y: Any, size: Any, random: Any, seed: int) -> tuple[EpochRows, EpochRows | None]:
        """Return rows drawn to train on and, unless the size is 0, the others to stop by."""
        rows = self.arrays(X, y)
        held = check_validation_size(size, len(rows.targets))
        order = torch.from_numpy(random.permutation(len(rows.targets))).to(self.device)
        kept, stop = taken(rows, order[held:]), taken(rows, order[:held])
        return self._shuffled(kept, seed), self._shuffled(stop, seed) if held else None

    def _shuffled(self, rows: Batch, seed: int) -> ShuffledRows:
        return ShuffledRows(rows, self.batch_size, torch.Generator().manual_seed(seed))


def _inputs(X: Any) -> Any:
    """Return inputs as a finite floating tensor in their own precision."""
    single = getattr(X, "dtype", None) == np.float32
    tensor = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.array(X, np.float32 if single else np.float64))
    check_finite(tensor.detach().cpu().numpy(), "X")
    return tensor
