"""Features and predictions of a network for rows: in blocks, or all of them as arrays on the host."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_finite
from hatband.fitted.rows import Rows, TrainingRows, held_out_rows
from hatband.formulas.leave_one_out import loo_residuals
from hatband.geometry import Features
from hatband.nn.measure.batches import NO_ROWS, ArrayBatches, Batches, check_finite_from, targets, wide_on_host
from hatband.nn.measure.head import Head, find_head
from hatband.nn.measure.parameter_subset import ForwardPass
from hatband.nn.measure.space import NetworkSpace
from hatband.nn.measure.streaming import rows_per_block

# More training rows than this are sampled for a scale that learns: memory stays flat, and trees gain nothing.
LEARNING_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class NetworkRows:
    """Some rows: features on the device, predictions and targets on the host.

    Parameters
    ----------
    features : Features
        phi(x) of each row; the inputs beside them where these are a table.
    prediction : array (b, q)
        What the module predicts.
    target : array (b,) or (b, q), or None
        As the loader has it.
    noise_std : array (b, 1) or (b, q), or None
        What a noise function says of the inputs.
    """

    features: Features
    prediction: Array
    target: Array | None
    noise_std: Array | None = None

    def __len__(self) -> int:
        return len(self.prediction)

    def residuals(self) -> Array:
        """Return y - prediction, (b, q); ValueError if the shapes do not agree or y is missing."""
        return columns_like(self.target, self.prediction) - self.prediction

    def new_rows(self, space: NetworkSpace) -> "NoisyRows":
        """Return `Rows` of these rows, which the model has not seen; lazy, from the features in memory."""
        return NoisyRows(
            len(self),
            inputs=partial(space.inputs, self.features),
            leverage=partial(space.leverage, self.features),
            sampling_leverage=partial(space.sampling_leverage, self.features),
            prediction=lambda: self.prediction,
            measured=lambda: (space, self.features),
            noise_std=self.noise_std,
        )

    def training_rows(self, space: NetworkSpace, weights: Array | None) -> "NoisyRows":
        """Return the same of rows that the space was fitted on: leverages without the row itself, predictions with."""
        rows = held_out_rows(space, self.features, self.prediction, space.leverage(self.features), weights)
        return NoisyRows(
            len(self),
            inputs=lambda: rows.inputs,
            leverage=lambda: rows.leverage,
            sampling_leverage=lambda: rows.sampling_leverage,
            prediction=lambda: self.prediction,
            measured=lambda: (space, self.features),
            noise_std=self.noise_std,
        )


class NoisyRows(Rows):
    """Rows with the noise that a noise function gives for their inputs.

    Parameters
    ----------
    n_samples, **fields
        As `Rows` takes them.
    noise_std : array (m, 1) or (m, q), or None
        Standard deviations; None where there is no function.
    """

    def __init__(self, n_samples: int, *, noise_std: Array | None, **fields: Any) -> None:
        super().__init__(n_samples, **fields)
        self.noise_std = noise_std


def columns_like(target: Array | None, prediction: Array) -> Array:
    """Return y as (b, q), never broadcast."""
    if target is None:
        raise ValueError("targets are needed here; pass y, or a loader that yields batches (inputs, y).")
    columns = target.reshape(len(target), -1)
    check_one_column_per_output(columns.shape[1], prediction.shape[1])
    return columns


def targets_by_noise(columns: Array, count: int) -> list[Array]:
    """Return the targets (n, q) that belong to each column of the noise: all to the only one, else one to each."""
    if count == 1:
        return [columns]
    if columns.shape[1] != count:
        raise ValueError(f"noise_std must have 1 column or one per output, {columns.shape[1]}; got {count}.")
    return [columns[:, [j]] for j in range(count)]


def check_one_column_per_output(n_targets: int, n_outputs: int) -> None:
    """Raise unless y has one column per output."""
    if n_targets != n_outputs:
        raise ValueError(f"y must have one column per output of the module, {n_outputs}; got {n_targets}.")


def stacked(parts: Iterable[Array]) -> Array:
    """Return the parts, one below the other; ValueError if there are no parts."""
    found = list(parts)
    if not found:
        raise ValueError(NO_ROWS)
    return np.concatenate(found)


def blocks_of(
    space: NetworkSpace,
    batches: Batches | ArrayBatches,
    start: int = 0,
    noise: Callable[[Any], Any] | None = None,
) -> Generator[NetworkRows, None, None]:
    """Run the module once over batches and yield blocks of rows that are large enough for fast products.

    The module is watched, and gradients are off, until it ends: close it, after an error too. Errors
    number the rows from `start`.
    """
    pending: list[tuple[ForwardPass, Array | None, Array | None]] = []
    filled = 0
    with space.part.watching(space.module) as run:
        for inputs, y in space.part.pieces(space.module, batches):
            seen = run(inputs)
            deviation = noise_of(noise, seen)
            # Images and the like are not to wait for the block to fill.
            seen = replace(seen, inputs=seen.table)
            pending.append((seen, None if y is None else targets(y, len(seen.features)), deviation))
            filled += len(seen.features)
            if filled >= rows_per_block(space.factor.frame.backend, seen.features.shape[1]):
                yield _joined(pending, start)
                pending, start, filled = [], start + filled, 0
        if filled:
            yield _joined(pending, start)


def block_of(
    space: NetworkSpace, inputs: Any, y: Any = None, start: int = 0, noise: Callable[[Any], Any] | None = None
) -> NetworkRows:
    """Run the module once over one batch and return it as one block, even if it was computed in pieces."""
    found = list(blocks_of(space, Batches([(inputs, y)]), start, noise))
    if len(found) == 1:
        return found[0]
    tables = [block.features.model_inputs for block in found]
    return NetworkRows(
        Features(None if tables[0] is None else torch.cat(tables), torch.cat([b.features.values for b in found])),
        np.concatenate([block.prediction for block in found]),
        None if y is None else np.concatenate([block.target for block in found]),
        _whole([block.noise_std for block in found]),
    )


def _joined(pending: list[tuple[ForwardPass, Array | None, Array | None]], start: int) -> NetworkRows:
    """Return one block; ValueError with the first row whose features, prediction or target are not finite."""
    passes, found, deviations = zip(*pending, strict=True)
    values = torch.cat([seen.features for seen in passes])
    check_finite_from(values, "the features of the module", start)
    prediction = torch.cat([seen.prediction for seen in passes])
    check_finite_from(prediction, "the prediction of the module", start)
    tables = [seen.inputs for seen in passes if seen.inputs is not None]
    inputs = torch.cat(tables) if len(tables) == len(passes) else None
    target = None if any(part is None for part in found) else np.concatenate(found)
    if target is not None:
        check_finite_from(torch.from_numpy(target), "y", start)
    return NetworkRows(Features(inputs, values), wide_on_host(prediction), target, _whole(deviations))


def training_rows(space: NetworkSpace, batches: Batches | ArrayBatches, seed: int) -> TrainingRows:
    """Return the rows that the space was fitted on, as if each had not been seen.

    If the head is a ridge regression on these rows, predictions and residuals are leave-one-out. If not, the module
    must not have been trained on these rows, and they are used unchanged. Leverages are leave-one-out in both cases.
    """
    own, kept = space.exactness != "none", _Sample(seed)
    with closing(blocks_of(space, batches)) as blocks:
        for block in blocks:
            h, residuals = space.leverage(block.features), block.residuals()
            held_out = loo_residuals(residuals, h) if own else residuals
            rows = held_out_rows(space, block.features, block.prediction + residuals - held_out, h, None)
            defined = np.isfinite(held_out).all(axis=1)
            kept.add(rows.take(defined), held_out[defined])
    return kept.rows("leave-one-out of the last layer, features as trained" if own else "unseen rows")


def validation_rows(space: NetworkSpace, batches: Batches | ArrayBatches, seed: int) -> TrainingRows:
    """Return rows that the module and the space have not seen."""
    kept = _Sample(seed)
    with closing(blocks_of(space, batches)) as blocks:
        for block in blocks:
            kept.add(block.new_rows(space), block.residuals())
    return kept.rows("validation rows")


class _Sample:
    """Rows with residuals, all of them or, beyond `LEARNING_ROWS`, a uniform sample: those of the smallest keys."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._parts: list[tuple[Array, ...]] = []
        self._count = 0

    def add(self, rows: Rows, residuals: Array) -> None:
        keys = self._random.random(len(rows))
        self._parts.append(
            (keys, rows.inputs, rows.leverage, rows.sampling_leverage, rows.prediction, np.asarray(residuals))
        )
        self._count += len(rows)
        if self._count > 2 * LEARNING_ROWS:
            self._thin()

    def _thin(self) -> None:
        whole = tuple(np.concatenate(part) for part in zip(*self._parts, strict=True))
        if self._count > LEARNING_ROWS:
            index = np.sort(np.argpartition(whole[0], LEARNING_ROWS)[:LEARNING_ROWS])
            whole = tuple(part[index] for part in whole)
        self._parts, self._count = [whole], len(whole[0])

    def rows(self, source: str) -> TrainingRows:
        if not self._count:
            raise ValueError("there must be at least one row to learn a scale from; the loader yielded none.")
        self._thin()
        _, inputs, leverage, sampling, prediction, residuals = self._parts[0]
        return TrainingRows(stored_rows(inputs, leverage, sampling, prediction), residuals, source, None)


def stored_rows(inputs: Array, leverage: Array, sampling_leverage: Array, prediction: Array) -> Rows:
    """Return rows from fields that were computed already."""
    fields: dict[str, Any] = {
        "inputs": inputs,
        "leverage": leverage,
        "sampling_leverage": sampling_leverage,
        "prediction": prediction,
    }
    stored: dict[str, Any] = {name: partial(_itself, value) for name, value in fields.items()}
    return Rows(len(leverage), **stored)


def _itself(value: Array) -> Array:
    return value


@dataclass(frozen=True, eq=False)
class Gathered:
    """All rows of a loader.

    Parameters
    ----------
    features : array (n, d)
        What enters the head, float64.
    prediction : array (n, q)
        What the module predicts.
    noise_std : array (n, 1) or (n, q), or None
        What a noise function says of the inputs.
    target : array (n,) or (n, q), or None
        As the loader has it.
    inputs : array (n, k), or None
        The inputs where they are a table that a scale can learn from.
    """

    features: Array
    prediction: Array
    noise_std: Array | None
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
        """Targets (n, q), one per output; ValueError if there are no targets."""
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
            parts.append((_host(seen.features), _host(seen.prediction), noise_of(noise, seen), _host(seen.table)))
            found.append(None if y is None else targets(y, len(seen.features)))
    if not parts:
        raise ValueError(NO_ROWS)
    features, prediction, deviations, table = map(_whole, zip(*parts, strict=True))
    check_finite(features, "the features of the module")
    check_finite(prediction, "the prediction of the module")
    target = _whole(found)
    if target is not None:
        check_finite(target, "y")
    return Gathered(features, prediction, deviations, target, table)


def _host(values: Any) -> Array | None:
    if values is None:
        return None
    return wide_on_host(values) if isinstance(values, torch.Tensor) else np.asarray(values, dtype=np.float64)


def _whole(parts: Any) -> Array | None:
    return None if any(part is None for part in parts) else np.concatenate(list(parts))


def noise_of(noise: Callable[[Any], Any] | None, seen: ForwardPass) -> Array | None:
    """Return the noise of a batch by a noise function, (b, 1) or (b, q); None if there is no function."""
    if noise is None:
        return None
    deviation = _checked_noise(_host(noise(seen.inputs)), len(seen.features))
    return deviation.reshape(len(deviation), -1)


def _checked_noise(deviation: Any, n_rows: int) -> Array:
    """Return the noise of a batch; ValueError unless it is a standard deviation > 0 for each row."""
    if deviation is None:
        raise ValueError("noise_std must return standard deviations; got None.")
    if deviation.ndim not in {1, 2} or len(deviation) != n_rows:
        raise ValueError(
            f"noise_std must return one standard deviation per row, shape ({n_rows},) or ({n_rows}, outputs); got "
            f"shape {deviation.shape}."
        )
    bad = ~(np.isfinite(deviation) & (deviation > 0))
    if bad.any():
        row = int(np.flatnonzero(bad.reshape(n_rows, -1).any(axis=1))[0])
        raise ValueError(
            f"noise_std must return standard deviations that are finite and > 0; row {row} of a batch has "
            f"{deviation[row]}."
        )
    return deviation
