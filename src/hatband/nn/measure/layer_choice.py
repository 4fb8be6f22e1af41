"""The values of `layer=`: leverage of one linear layer, or of the whole network, exact or of low rank."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from hatband.arrays.typing import Array
from hatband.checks import check_at_least
from hatband.linalg import GramStatistics
from hatband.nn.measure.batches import ArrayBatches, Batches
from hatband.nn.measure.head import find_head
from hatband.nn.measure.low_rank import RunningProduct, SubspaceIteration
from hatband.nn.measure.network_rows import check_one_column_per_output
from hatband.nn.measure.parameter_subset import AllParameters, Part
from hatband.nn.measure.space import NetworkSpace, fit_sketch, fit_space
from hatband.nn.measure.streaming import Pass, RunningGram, WeightedGram, streamed
from hatband.nn.measure.tangent import n_parameters

Merge: TypeAlias = Callable[[GramStatistics], GramStatistics]


class Fitted(NamedTuple):
    """A space, the number of columns of the prediction, and whether y had one number per row."""

    space: NetworkSpace
    n_outputs: int
    is_flat: bool
    """Of the prediction where there was no y."""
    has_targets: bool


@dataclass(frozen=True)
class Task:
    """The data of a space: a network, its training rows, and the prior.

    Parameters
    ----------
    module : nn.Module
        The network.
    batches : batches
        Training rows.
    ridge : float, "evidence", "gcv" or "auto"
        In the sum convention.
    penalise_bias : bool
        Whether the ridge is on a constant too.
    merge : callable(GramStatistics) -> GramStatistics, or None
        Adds the rows of other processes.
    weights : array (n,), or None
        How much each row counts.
    """

    module: nn.Module
    batches: Batches | ArrayBatches
    ridge: Any
    penalise_bias: bool
    merge: Merge | None
    weights: Array | None = None


class LayerChoice(ABC):
    """A choice of features of a network, and how the space of its training rows is fitted."""

    @abstractmethod
    def fit(self, task: Task) -> Fitted:
        """Run over the training rows and return the space."""


@dataclass(frozen=True, eq=False)
class OneLayer(LayerChoice):
    """The input of one linear layer.

    Parameters
    ----------
    layer : str, nn.Module or None
        As `find_head` takes it.
    """

    layer: str | nn.Module | None = None

    def fit(self, task: Task) -> Fitted:
        """Factor the Gram matrix of what enters the layer, from one pass."""
        return _by_gram(task, partial(find_head, layer=self.layer))


@dataclass(frozen=True)
class WholeNetwork(LayerChoice):
    """phi(x) = grad_w f(x; w) in all p parameters: h(x) = 1/n + phi_c(x)' (Phi_c'Phi_c + ridge I)^-1 phi_c(x).

    Of a network with one output; parameters that were not trained count too. This is what
    `LastLayerConformalRegressor(module, layer="all")` measures; pass one as `layer` to set the numbers below.

    Parameters
    ----------
    exact_up_to : int, default=6000
        Parameters up to which the Gram matrix is held and factored: 8 p^2 bytes, 0.3 GB at 6,000; six times that while
        it is being fitted.
    rank : int, default=200
        Beyond, directions of Phi_c'Phi_c that are kept. What they miss counts in full, |phi_perp|^2 / ridge, so that h
        is at most too large, and grows where the network has not been.
    iterations : int, default=2
        Passes over the training rows that refine these directions, before one that measures.
    random_state : int, default=0
        Seed of the first directions.

    Notes
    -----
    A backward pass per row, and n p^2 + p^3 / 3 operations once and p^2 per row where it is exact; beyond it
    4 n p r in each of 1 + iterations passes, 4 p r per row measured, and memory of some 60 p r bytes. No training row
    is kept. The generalised Gauss-Newton approximation: Immer, Korzepa and Bauer (2021), "Improving predictions of
    Bayesian neural nets via local linearization"; low rank as in Daxberger et al. (2021), "Laplace Redux"; directions
    by Halko, Martinsson and Tropp (2011), algorithm 4.4.

    ridge="auto" is 1e-2 tr(Phi_c'Phi_c) / min(n, p), as in `TangentGeometry`. Much below it a network with more
    parameters than rows gives new rows leverages in the hundreds, and the width is their distance from the training
    gradients alone; a mean over all p eigenvalues, most of them 0, would be much below it.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import LastLayerConformalRegressor, WholeNetwork
    >>> net = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 1))
    >>> low_rank = WholeNetwork(exact_up_to=0, rank=20)
    >>> model = LastLayerConformalRegressor(net, low_rank, scale="leverage").fit_train(torch.randn(99, 3))
    >>> exact = LastLayerConformalRegressor(net, "all", scale="leverage").fit_train(torch.randn(99, 3))
    >>> model.leverage(torch.zeros(5, 3)).shape
    (5,)
    """

    exact_up_to: int = 6_000
    rank: int = 200
    iterations: int = 2
    random_state: int = 0

    def fit(self, task: Task) -> Fitted:
        """Factor the Gram matrix of all gradients, or find its leading directions."""
        check_at_least(self.exact_up_to, 0, "exact_up_to")
        check_at_least(self.rank, 1, "rank")
        check_at_least(self.iterations, 0, "iterations")
        check_at_least(self.random_state, 0, "random_state")
        if n_parameters(task.module) <= self.exact_up_to:
            return _by_gram(task, AllParameters.found)
        return _by_sketch(task, SubspaceIteration(self.rank, self.iterations, self.random_state))


def as_choice(layer: Any) -> LayerChoice:
    """Return the choice that `layer=` stands for."""
    if isinstance(layer, LayerChoice):
        return layer
    if not (layer is None or isinstance(layer, (str, nn.Module))):
        raise TypeError(
            "layer must be the name of a linear layer, the layer itself, 'all', an instance such as WholeNetwork(), or "
            f"None; got {layer!r}."
        )
    return WholeNetwork() if isinstance(layer, str) and layer == "all" else OneLayer(layer)


def _by_gram(task: Task, find: Callable[[nn.Module, Any], Part]) -> Fitted:
    """Fit by one pass that sums the Gram matrix."""
    weights = task.weights
    start = RunningGram.of if weights is None else lambda *_: WeightedGram(weights)
    passed: Pass[Part, RunningGram | WeightedGram] = _checked(streamed(task.module, task.batches, find, start))
    statistics = passed.running.statistics()
    whole = statistics if task.merge is None else task.merge(statistics)
    space = fit_space(task.module, passed.part, whole, task.ridge, task.penalise_bias)
    return Fitted(space, passed.n_outputs, passed.is_flat, passed.n_targets > 0)


def _by_sketch(task: Task, subspace: SubspaceIteration) -> Fitted:
    """Fit by passes that multiply the Gram matrix with a few directions."""
    if task.merge is not None:
        raise ValueError(
            f"merge= adds Gram matrices, and low rank does not form them: the module has {n_parameters(task.module)} "
            "parameters. Pass layer=WholeNetwork(exact_up_to=...) with a larger number, or fit in one process."
        )
    if task.weights is not None:
        raise ValueError(
            f"sample_weight weighs the rows of a Gram matrix, which low rank does not form: the module has "
            f"{n_parameters(task.module)} parameters. Pass layer=WholeNetwork(exact_up_to=...) with a larger number."
        )
    part = AllParameters.found(task.module, None)
    latest: list[Pass[AllParameters, RunningProduct]] = []

    def passed(basis: Any) -> RunningProduct:
        found = streamed(task.module, task.batches, lambda *_: part, lambda *_: RunningProduct(basis))
        latest[:] = [_checked(found)]
        return found.running

    intercept = part.intercept(task.penalise_bias)
    sketch = subspace.sketch(n_parameters(task.module), part.device, intercept, passed)
    space = fit_sketch(task.module, part, sketch, task.ridge, intercept)
    return Fitted(space, latest[0].n_outputs, latest[0].is_flat, latest[0].n_targets > 0)


def _checked(passed: Any) -> Any:
    """Return the pass; ValueError unless it has as many targets as outputs."""
    check_one_column_per_output(passed.n_targets or passed.n_outputs, passed.n_outputs)
    return passed
