"""All parameters of a network as what is measured: their gradients, row by row, in pieces that memory holds."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hatband.formulas.ridge_choice import whole_network_ridge
from hatband.linalg import GramStatistics
from hatband.nn.measure.batches import called, each, home, n_rows, placed, targets
from hatband.nn.measure.head import evaluating
from hatband.nn.measure.parameter_subset import Intercept, Part, Seen
from hatband.nn.measure.tangent import (
    DoubleNetwork,
    blocks_of_gradients,
    gradient_device,
    n_parameters,
    one_output,
)


@dataclass(frozen=True, eq=False)
class AllParameters(Part):
    """phi(x) = grad_w f(x; w) in all parameters w, in float64; predictions are those of the network as it is.

    Parameters
    ----------
    device : torch.device
        Where gradients are taken.
    """

    device: torch.device

    @classmethod
    def found(cls, module: nn.Module, inputs: Any) -> "AllParameters":
        """Return all parameters of a module: there is nothing to look for in a batch."""
        return cls(gradient_device(module))

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[Callable[[Any], Seen]]:
        """Give a function that runs the module on a batch and returns gradients and predictions."""
        device, dtype = home(module)
        network = DoubleNetwork.on(module, self.device)

        def run(inputs: Any) -> Seen:
            there = placed(inputs, device, dtype)
            output = called(module, there)
            prediction = one_output(output, n_rows(there))
            _, gradients = network.expand(placed(inputs, network.device, torch.float64))
            return Seen(there, gradients, prediction.detach()[:, None], output.ndim < 2)

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
        """Return whether a constant is free beside all parameters; they hold the biases already."""
        return "none" if penalise_bias else "free"

    def default_ridge(self, trace: float, n_samples: int, n_features: int) -> float:
        """Return a hundredth of the mean eigenvalue, over no more of these than rows."""
        return whole_network_ridge(trace, n_samples, n_features)

    def own_ridge(self, statistics: GramStatistics, intercept: Intercept, ridge: Any) -> float | None:
        """Return None: a network is not linear in all its parameters."""
        return None


def _cut(inputs: Any, block: slice) -> Any:
    return each(inputs, lambda leaf: leaf[block])
