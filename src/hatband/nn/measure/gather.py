"""What a network makes of rows, as arrays on the host: features of its head, predictions, noise, targets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hatband._checks_network import checked_noise
from hatband.arrays.typing import Array
from hatband.checks import check_finite
from hatband.nn.measure.batches import NO_ROWS, ArrayBatches, Batches, targets, wide_on_host
from hatband.nn.measure.blocks import columns_like
from hatband.nn.measure.head import Head, find_head


@dataclass(frozen=True, eq=False)
class Gathered:
    """All rows of a loader.

    Parameters
    ----------
    features : array (n, d)
        What enters the head, float64.
    prediction : array (n, q)
        What the module predicts.
    noise : array (n, 1) or (n, q), or None
        What a noise function says of the inputs.
    target : array (n,) or (n, q), or None
        As the loader has it.
    inputs : array (n, k), or None
        The inputs where they are a table that a scale can learn from.
    """

    features: Array
    prediction: Array
    noise: Array | None
    target: Array | None
    inputs: Array | None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def is_flat(self) -> bool:
        """Whether the targets came as one number per row."""
        return self.target is not None and self.target.ndim == 1

    @property
    def columns(self) -> Array:
        """Targets (n, q), one per output; ValueError where there are none."""
        return columns_like(self.target, self.prediction)


def head_of(module: nn.Module, batches: Batches | ArrayBatches, layer: str | nn.Module | None) -> Head:
    """Return the head of a module, found with the first batch."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module; got {type(module).__name__}.")
    for inputs, _ in batches:
        return find_head(module, inputs, layer)
    raise ValueError(NO_ROWS)


def gathered(
    module: nn.Module, head: Head, batches: Batches | ArrayBatches, noise: Callable[[Any], Any] | None = None
) -> Gathered:
    """Run a module once over batches and keep everything: 8 n d bytes.

    Raises
    ------
    ValueError
        If something is not finite, there is no row, or targets are missing from some batches only.
    """
    parts: list[tuple[Array | None, ...]] = []
    found: list[Array | None] = []
    with head.watching(module) as run:
        for inputs, y in batches:
            seen = run(inputs)
            deviation = None if noise is None else checked_noise(_host(noise(seen.inputs)), len(seen.features))
            parts.append((_host(seen.features), _host(seen.prediction), deviation, _host(seen.table)))
            found.append(None if y is None else targets(y, len(seen.features)))
    if not parts:
        raise ValueError(NO_ROWS)
    features, prediction, deviations, table = map(_joined, zip(*parts, strict=True))
    check_finite(features, "the features of the module")
    check_finite(prediction, "the prediction of the module")
    target = _joined(found)
    if target is not None:
        check_finite(target, "y")
    return Gathered(features, prediction, _columns(deviations), target, table)


def _host(values: Any) -> Array | None:
    if values is None:
        return None
    return wide_on_host(values) if isinstance(values, torch.Tensor) else np.asarray(values, dtype=np.float64)


def _joined(parts: Any) -> Array | None:
    return None if any(part is None for part in parts) else np.concatenate(list(parts))


def _columns(values: Array | None) -> Array | None:
    return None if values is None else values.reshape(len(values), -1)
