"""Mean and standard deviation of the columns of rows that come in blocks."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from hatband._typing import Array


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
