"""Statistics of features over a loader, in float64 blocks on the device, merged across processes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from hatband.arrays.backend import AnyBackend, backend_of
from hatband.arrays.typing import Array
from hatband.linalg import GramStatistics
from hatband.linalg.moments import Centre
from hatband.nn.measure.batches import NO_ROWS, ArrayBatches, Batches, as_batches, check_finite_from, targets
from hatband.nn.measure.head import find_head
from hatband.nn.measure.parameter_subset import Part


def rows_per_block(backend: AnyBackend, n_columns: int) -> int:
    """Return how many rows are gathered from batches before they are multiplied."""
    return backend.block_rows(n_columns)


class RunningGram:
    """Gram matrix of rows z = (phi, y): sum (z - c)(z - c)' about the mean c of the first block, finally about m.

    Rows are gathered in one reused float64 buffer, so memory is flat in their number; on an accelerator nothing is read
    back before `statistics`.

    Parameters
    ----------
    backend : Backend
        Where the rows are multiplied.
    n_features, n_targets : int
        Columns of phi and y.
    """

    def __init__(self, backend: AnyBackend, n_features: int, n_targets: int) -> None:
        self._backend, self._n_features, size = backend, n_features, n_features + n_targets
        self.device = torch.device(getattr(backend, "device", "cpu"))
        self._block = torch.empty(rows_per_block(backend, size), size, dtype=torch.float64, device=self.device)
        self._gram, self._sums = backend.zeros(size, size), backend.zeros(size)
        self._shift: torch.Tensor | None = None
        self._filled = self._count = 0

    @classmethod
    def of(cls, features: torch.Tensor, n_targets: int) -> "RunningGram":
        """Return empty sums for rows like these, on their device."""
        return cls(backend_of(features), features.shape[1], n_targets)

    def add(self, features: torch.Tensor, target: Array | None = None) -> None:
        """Add a batch of rows."""
        values = None if target is None else torch.from_numpy(target).reshape(len(features), -1)
        self._refuse_other(features, values)
        start = 0
        while start < len(features):
            part = slice(start, start + min(len(features) - start, len(self._block) - self._filled))
            start, filled = part.stop, self._filled + part.stop - part.start
            block = self._block[self._filled : filled]
            self._write(features[part], block, slice(0, self._n_features))
            if values is not None:
                self._write(values[part], block, slice(self._n_features, None))
            self._filled = filled
            if filled == len(self._block):
                self._flush()

    def _write(self, source: torch.Tensor, block: torch.Tensor, columns: slice) -> None:
        """Copy to the device in the type of the source, and widen and centre in one pass there."""
        there = source.to(self.device)
        if self._shift is None:
            block[:, columns].copy_(there)
        else:
            torch.sub(there, self._shift[columns], out=block[:, columns])

    def _refuse_other(self, features: torch.Tensor, target: torch.Tensor | None) -> None:
        shape = (features.shape[1], 0 if target is None else target.shape[1])
        expected = (self._n_features, self._block.shape[1] - self._n_features)
        if shape != expected:
            raise ValueError(
                f"every batch must have {expected[0]} features and {expected[1]} targets, like the first; got "
                f"{shape[0]} and {shape[1]}."
            )

    def _flush(self) -> None:
        block = self._block[: self._filled]
        if self._shift is None:
            self._shift = block.mean(dim=0)
            block -= self._shift
        self._sums += self._backend.asarray(block.sum(dim=0))
        self._gram = self._backend.syrk_add(self._gram, self._backend.asarray(block))
        self._count, self._filled = self._count + self._filled, 0

    def is_finite(self) -> bool:
        """Whether nothing but numbers was added."""
        if self._filled:
            self._flush()
        return self._backend.isfinite(self._sums)

    def statistics(self) -> GramStatistics:
        """Return the statistics so far; Chan et al. 1979 for the change to the mean."""
        if self._filled:
            self._flush()
        backend, count = self._backend, self._count
        if self._shift is None:
            raise ValueError(NO_ROWS)
        offset = self._sums / count
        centre = Centre(count, float(count), backend.asarray(self._shift) + offset)
        joint = backend.mirror(self._gram + 0.0) - count * offset[:, None] * offset
        backend.set_diagonal(joint, joint.diagonal().clip(0.0))
        return GramStatistics(centre, self._n_features, joint)


class WeightedGram:
    """The same of rows that count with weights: sum_i w_i (z_i - m)(z_i - m)' about their weighted mean m.

    Parameters
    ----------
    weights : array (n,)
        Of the rows, in the order in which they are added.
    """

    def __init__(self, weights: Array) -> None:
        self._weights = weights
        self._start = 0
        self._sum: GramStatistics | None = None

    def add(self, features: torch.Tensor, target: Array | None = None) -> None:
        """Add a batch of rows."""
        part = self._weights[self._start : self._start + len(features)]
        self._start += len(features)
        self._sum = added(self._sum, features, target, part)

    def is_finite(self) -> bool:
        """Return True: what is not is refused when it is added."""
        return True

    def statistics(self) -> GramStatistics:
        """Return what was added so far."""
        if self._sum is None:
            raise ValueError(NO_ROWS)
        return self._sum


def added(
    statistics: GramStatistics | None, features: torch.Tensor, target: Array | None, weights: Array
) -> GramStatistics:
    """Return statistics of weighted rows (None: of no rows) and of a batch more, where the features are."""
    backend = backend_of(features)
    columns = None if target is None else backend.asarray(target.reshape(len(target), -1))
    verb = GramStatistics.of if statistics is None else statistics.add
    return verb(backend.asarray(features), columns, weights)


class Running(Protocol):
    """Sums over the rows of a pass."""

    def add(self, features: torch.Tensor, target: Array | None = None) -> None:
        """Add a batch of rows."""
        ...

    def is_finite(self) -> bool:
        """Whether nothing but numbers was added."""
        ...


P = TypeVar("P", bound=Part)
R = TypeVar("R", bound=Running)


@dataclass(frozen=True, eq=False)
class Pass(Generic[P, R]):
    """The result of one pass over training rows.

    Parameters
    ----------
    part : Part
        Whose features they are.
    running : Running
        What was added up.
    n_targets : int
        Columns of y, 0 without targets.
    n_outputs : int
        Columns of the prediction.
    is_flat : bool
        Whether y, or without y the prediction, came as one number per row.
    """

    part: P
    running: R
    n_targets: int
    n_outputs: int
    is_flat: bool


def streamed(
    module: nn.Module,
    batches: Batches | ArrayBatches,
    find: Callable[[nn.Module, Any], P],
    start: Callable[[torch.Tensor, int], R],
) -> Pass[P, R]:
    """Run a module once over batches and add up features and targets of its rows.

    Parameters
    ----------
    module : nn.Module
        The network; it is left as it was found.
    batches : batches
        Rows.
    find : callable(module, inputs) -> Part
        Whose features they are, found with the first batch.
    start : callable(features, n_targets) -> Running
        What adds them up, made for the first features.
    """
    rows = iter(batches)
    first = next(rows, None)
    if first is None:
        raise ValueError(NO_ROWS)
    part = find(module, first[0])
    with part.watching(module) as run:
        pieces = part.pieces(module, chain([first], rows))
        inputs, y = next(pieces, (None, None))
        if inputs is None:
            raise ValueError(NO_ROWS)
        seen = run(inputs)
        target = None if y is None else targets(y, len(seen.features))
        n_targets = 0 if target is None else target.size // len(target)
        n_outputs = seen.prediction.shape[1]
        flat = seen.is_flat if target is None else target.ndim == 1
        running = start(seen.features, n_targets)
        running.add(seen.features, target)
        for inputs, y in pieces:
            features = run(inputs).features
            running.add(features, None if y is None else targets(y, len(features)))
    if not running.is_finite():
        _refuse_not_finite(module, batches, part)
    return Pass(part, running, n_targets, n_outputs, flat)


def _refuse_not_finite(module: nn.Module, batches: Batches | ArrayBatches, part: Part) -> None:
    """Raise, after a second pass that finds the row; the first pass does not check single rows."""
    start = 0
    with part.watching(module) as run:
        for inputs, y in part.pieces(module, batches):
            features = run(inputs).features
            check_finite_from(features, "the features of the module", start)
            if y is not None:
                check_finite_from(torch.from_numpy(targets(y, len(features))), "y", start)
            start += len(features)
    raise ValueError("the features of the module and y must be finite; their sum is not.")


def feature_statistics(
    module: nn.Module, data: Any, y: Any = None, *, layer: str | nn.Module | None = None
) -> GramStatistics:
    """Return number, mean and centred Gram matrix sum (phi - mean)(phi - mean)' of the features that enter the head.

    Parameters
    ----------
    module : nn.Module
        The network; it is left as it was found.
    data : DataLoader, array (n, ...) or pair (X, y)
        Rows. With targets, the statistics hold these too, as columns beside the features.
    y : array (n,) or (n, q), optional
        Targets of an array.
    layer : str, nn.Module or None
        The head; see `find_head`.

    Returns
    -------
    GramStatistics
        float64 tensors, on the device of the features, or on the CPU where that has no float64.

    Raises
    ------
    ValueError
        If there is no row, a feature or target is not finite, or no head can be found.

    Notes
    -----
    One forward pass and n d^2 operations; O(d^2 + block d) memory for any number of rows. Products are in
    float64, which TF32 does not touch. Statistics of parts merge: `GramStatistics.merge`, or `all_reduce`. Means are
    moved as in Chan, Golub and LeVeque (1983), eq. 2.1.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import feature_statistics
    >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> feature_statistics(net, torch.randn(50, 3)).gram.shape
    torch.Size([8, 8])
    """
    return streamed(module, as_batches(data, y), partial(find_head, layer=layer), RunningGram.of).running.statistics()


def all_reduce(statistics: GramStatistics, group: Any = None) -> GramStatistics:
    """Return the statistics of the rows of all processes: sum_r G_r + w_r (m_r - m)(m_r - m)', the same in each.

    Parameters
    ----------
    statistics : GramStatistics
        Statistics of the rows of this process; it may have no rows.
    group : torch.distributed.ProcessGroup, optional
        The processes; all by default.

    Returns
    -------
    GramStatistics
        On the device that the statistics of this process are on.

    Raises
    ------
    RuntimeError
        If torch.distributed has not been initialised.
    ValueError
        In every process, if they have not the same features and targets.

    Notes
    -----
    Two all-reduces: p + 1 numbers for the mean, p^2 for the matrix. float64 throughout. Chan et al. (1979).

    Examples
    --------
    In each of the processes that `torchrun` started::

        dist.init_process_group("gloo")
        model = LastLayerConformalRegressor(net, scale="leverage")
        model.fit_train(loader_of_this_process, merge=all_reduce)

    In one process it changes nothing but rounding:

    >>> import numpy as np, tempfile, torch.distributed as dist
    >>> from hatband.linalg import GramStatistics
    >>> from hatband.nn import all_reduce
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
    ...     whole = all_reduce(GramStatistics.of(np.eye(3)))
    ...     dist.destroy_process_group()
    >>> whole.n_samples
    3
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("all_reduce needs connected processes: call torch.distributed.init_process_group first.")
    _refuse_different(statistics, group)
    device = _meeting_device(statistics, group)
    mean, joint = (_sendable(values, device) for values in (statistics.centre.mean, statistics.joint))
    weight = statistics.weight
    totals = torch.cat([mean * weight, mean.new_tensor([weight, float(statistics.n_samples)])])
    dist.all_reduce(totals, group=group)
    whole, count = float(totals[-2]), round(float(totals[-1]))
    common = totals[:-2] / whole if whole else totals[:-2]
    between = mean - common
    joint.addmm_(between[:, None], between[None], alpha=weight)
    dist.all_reduce(joint, group=group)
    back = backend_of(statistics.joint)
    return replace(statistics, centre=Centre(count, whole, back.asarray(common)), joint=back.asarray(joint))


def _refuse_different(statistics: GramStatistics, group: Any) -> None:
    """Raise in every process, so that no process waits forever."""
    shapes: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(shapes, (statistics.n_features, statistics.n_targets), group=group)
    if len(set(shapes)) > 1:
        raise ValueError(f"all processes must hold the same numbers of features and targets; got {shapes}.")


def _meeting_device(statistics: GramStatistics, group: Any) -> torch.device:
    """Return the device on which tensors can be exchanged: the GPU for NCCL, the CPU for gloo."""
    if dist.get_backend(group) == "nccl":
        own = statistics.joint
        return own.device if isinstance(own, torch.Tensor) else torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _sendable(values: Array, device: torch.device) -> torch.Tensor:
    """Return a copy as a tensor on a device."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))
    return tensor.detach().clone().to(device, torch.float64).contiguous()
