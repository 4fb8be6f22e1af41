"""What of a network is measured: one layer or all parameters, and the features that a forward pass gives for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from hatband.geometry.convert import DENSE_COLUMNS
from hatband.linalg import GramStatistics

Intercept: TypeAlias = Literal["free", "penalised", "none"]


@dataclass(frozen=True, eq=False)
class Seen:
    """What one forward pass shows.

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
        """Inputs that a scale can learn from, at most 256 columns; codes of tokens or categories are no numbers."""
        X = self.inputs
        is_table = isinstance(X, torch.Tensor) and X.ndim == 2 and X.is_floating_point()
        return X.detach() if is_table and X.shape[1] <= DENSE_COLUMNS else None


class Part(ABC):
    """The parameters of a network that count as uncertain; phi(x) is the gradient of the prediction in them."""

    @abstractmethod
    def watching(self, module: nn.Module) -> AbstractContextManager[Callable[[Any], Seen]]:
        """Give a function that runs the module on a batch of inputs; leave the module as it was found."""

    @abstractmethod
    def pieces(self, module: nn.Module, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield batches (inputs, y) that are small enough for their features to be held at once."""

    @abstractmethod
    def intercept(self, penalise_bias: bool) -> Intercept:
        """Return what is done about a constant: left free, appended to phi with the ridge on it, or nothing."""

    @abstractmethod
    def default_ridge(self, trace: float, n_samples: int, n_features: int) -> float:
        """Return the ridge where the network's own penalty is not known: a share of the mean eigenvalue of Phi'Phi."""

    @abstractmethod
    def own_ridge(self, statistics: GramStatistics, intercept: Intercept, ridge: Any) -> float | None:
        """Return the ridge at which these parameters are the ridge regression on the rows, None where they are not."""
