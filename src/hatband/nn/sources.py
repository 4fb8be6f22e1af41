"""Which rows a network is trained on, and which say when to stop."""

from typing import Any, NamedTuple

import torch
from sklearn.utils import check_consistent_length

from hatband._checks_network import check_validation_size
from hatband._validation import check_target
from hatband.nn.batches import ArrayBatches, Batch, Batches, LoaderBatches, as_inputs, as_targets


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
        inputs = as_inputs(X, self.device)
        check_consistent_length(inputs, target)
        # Targets in float64 until they are standardised: y may lie far from 0.
        return Batch(inputs if self.keeps_precision else inputs.to(self.dtype), as_targets(target, self.device))

    def batches(self, rows: Batch, seed: int) -> ArrayBatches:
        """Return mini-batches of rows, shuffled by a generator of their own."""
        return ArrayBatches(*rows, self.batch_size, torch.Generator().manual_seed(seed))

    def given(self, X: Any, y: Any, seed: int) -> Batches:
        """Return batches of an array X with y, or of a loader X."""
        if y is not None:
            return self.batches(self.arrays(X, y), seed)
        return LoaderBatches(X, self.device, None if self.keeps_precision else self.dtype)

    def with_validation(self, X: Any, y: Any, validation: Any, seed: int) -> tuple[Batches, Batches | None]:
        """Return the rows to train on, and the rows given to stop by, if any."""
        training = self.given(X, y, seed)
        if validation is None:
            return training, None
        pair = validation if isinstance(validation, tuple) else (validation, None)
        return training, self.given(pair[0], pair[1], seed)

    def held_out(self, X: Any, y: Any, size: Any, random: Any, seed: int) -> tuple[Batches, Batches | None]:
        """Return rows drawn to train on and, unless the size is 0, the others to stop by."""
        rows = self.arrays(X, y)
        held = check_validation_size(size, len(rows.targets))
        order = torch.from_numpy(random.permutation(len(rows.targets))).to(self.device)
        kept, stop = (Batch(rows.inputs[index], rows.targets[index]) for index in (order[held:], order[:held]))
        return self.batches(kept, seed), self.batches(stop, seed) if held else None
