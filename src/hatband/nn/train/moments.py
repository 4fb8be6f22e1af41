"""Mean and standard deviation of the columns of rows that come in blocks."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from hatband.arrays.kinds import exact_device
from hatband.arrays.typing import Array
from hatband.linalg.moments import Centre
from hatband.nn.measure.batches import moved


class Moments(NamedTuple):
    """Mean and standard deviation of columns; a column that does not vary has scale 1."""

    mean: Array
    scale: Array

    def to(self, device: Any) -> "Moments":
        """Return them on a device."""
        return Moments(self.mean.to(device), self.scale.to(device))


def moments(blocks: Iterable[tuple[Any, Any]]) -> Moments:
    """Return mean and standard deviation of the columns of blocks (b, k) of rows with weights (b,), or None for 1.

    Summed in float64, where the blocks are, and merged like all running statistics.
    """
    centre: Centre | None = None
    square: Any = 0.0
    for block, given in blocks:
        values = moved(block.detach(), exact_device(block.device), torch.float64)
        weight = values.new_ones(len(values)) if given is None else given.to(values)
        added = float(weight.sum())
        if not added:
            continue
        own = Centre(len(values), added, weight @ values / added)
        centre, between = (own, 0.0 * own.mean) if centre is None else centre.merged(own)
        square = square + weight @ (values - own.mean) ** 2 + between**2
    if centre is None:
        raise ValueError("the loader gave no batch; pass one with at least one row.")
    mean, scale = centre.mean, (square / centre.weight).sqrt()
    # Rounding leaves a constant column a spread of about eps times its size.
    varies = (scale > 1e-12 * mean.abs()) | ~torch.isfinite(scale)
    return Moments(mean, torch.where(varies, scale, torch.ones_like(scale)))
