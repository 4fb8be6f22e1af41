"""The parameters of a network that are measured, one layer or all, and their features from a forward pass."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from hatband.formulas.ridge_choice import whole_network_ridge
from hatband.geometry.base import DENSE_COLUMNS
from hatband.linalg import GramStatistics
from hatband.nn.measure.batches import called, each, home, n_rows, placed, targets
from hatband.nn.measure.state import evaluating
from hatband.nn.measure.tangent import (
    DoubleNetwork,
    blocks_of_gradients,
    gradient_device,
    n_parameters,
    one_output,
)

Intercept: TypeAlias = Literal["free", "penalised", "none"]


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """The result of one forward pass.

    Parameters
    ----------
    inputs : tensor, tuple or dict
        As the module got them.
    features : tensor (b, d)
        phi(x) of each row.
    prediction : tensor (b, q)
        What the module predicts.
    is_flat : bool
        Whether the module returned one number per row without an axis for outputs.
    """

    inputs: Any
    features: torch.Tensor
    prediction: torch.Tensor
    is_flat: bool

    @property
    def table(self) -> torch.Tensor | None:
        """Inputs that a scale can learn from, at most 256 columns; codes of tokens or categories do not count."""
        X = self.inputs
        is_table = isinstance(X, torch.Tensor) and X.ndim == 2 and X.is_floating_point()
        return X.detach() if is_table and X.shape[1] <= DENSE_COLUMNS else None


class Part(ABC):
    """The parameters of a network that count as uncertain; phi(x) is the gradient of the prediction in them."""

    @abstractmethod
    def watching(self, module: nn.Module) -> AbstractContextManager[Callable[[Any], ForwardPass]]:
        """Give a function that runs the module on a batch of inputs; restore the state of the module after."""

    @abstractmethod
    def pieces(self, module: nn.Module, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield batches (inputs, y) that are small enough for their features to be held at once."""

    @abstractmethod
    def intercept(self, penalise_bias: bool) -> Intercept:
        """Return the treatment of a constant: free, appended to phi with the ridge on it, or absent."""

    @abstractmethod
    def default_ridge(self, trace: float, n_samples: int, n_features: int) -> float:
        """Return the ridge if the network's penalty is unknown: a share of the mean eigenvalue of Phi'Phi."""

    @abstractmethod
    def own_ridge(self, statistics: GramStatistics, intercept: Intercept, ridge: Any) -> float | None:
        """Return the ridge at which these parameters are the ridge regression on the rows; None if there is none."""


@dataclass(frozen=True, eq=False)
class AllParameters(Part):
    """phi(x) = grad_w f(x; w) in all parameters w, in float64; predictions are those of the network itself.

    Parameters
    ----------
    device : torch.device
        Where gradients are taken.
    """

    device: torch.device

    @classmethod
    def found(cls, module: nn.Module, inputs: Any) -> "AllParameters":
        """Return all parameters of a module; the batch is not used."""
        return cls(gradient_device(module))

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[Callable[[Any], ForwardPass]]:
        """Give a function that runs the module on a batch and returns gradients and predictions."""
        device, dtype = home(module)
        network = DoubleNetwork.on(module, self.device)

        def run(inputs: Any) -> ForwardPass:
            there = placed(inputs, device, dtype)
            output = called(module, there)
            prediction = one_output(output, n_rows(there))
            _, gradients = network.expand(placed(inputs, network.device, torch.float64))
            return ForwardPass(there, gradients, prediction.detach()[:, None], output.ndim < 2)

        with evaluating(module):
            yield run

    def pieces(self, module: nn.Module, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield parts of the batches whose gradients fill one block."""
        size = n_parameters(module)
        for inputs, y in batches:
            there = placed(inputs, self.device, torch.float64)
            count = n_rows(there)
            known = None if y is None else targets(y, count)
            for block in blocks_of_gradients(count, size):
                yield _cut(there, block), None if known is None else known[block]

    def intercept(self, penalise_bias: bool) -> Intercept:
        """Return whether a constant is free in addition to all parameters, which already contain the biases."""
        return "none" if penalise_bias else "free"

    def default_ridge(self, trace: float, n_samples: int, n_features: int) -> float:
        """Return a hundredth of the mean eigenvalue, over no more of these than rows."""
        return whole_network_ridge(trace, n_samples, n_features)

    def own_ridge(self, statistics: GramStatistics, intercept: Intercept, ridge: Any) -> float | None:
        """Return None: a network is not linear in all its parameters."""
        return None


def _cut(inputs: Any, block: slice) -> Any:
    return each(inputs, lambda leaf: leaf[block])
