"""The whole network as a linear model: its gradient in all parameters as features, and their leverage."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from hatband._backend import on_host
from hatband._typing import Array, Float
from hatband._validation import check_finite, check_in, check_ridge
from hatband.evidence import SMALL_RIDGE
from hatband.geometry import Exactness, Geometry
from hatband.geometry.convert import combined_weights
from hatband.geometry.features import FeatureSpace
from hatband.linalg import Auto
from hatband.nn.batches import home
from hatband.nn.head import evaluating

# Numbers in one block of gradients: 64 MB.
BLOCK_NUMBERS = 2**23


class Expansion(NamedTuple):
    """f(x) and grad f(x) of rows: f(x; w) is about f(x) + grad f(x)'(w - w_0) near the trained w_0."""

    value: Array
    """f(x), (m,)."""
    gradient: Array
    """Derivatives in all parameters, (m, p)."""


@dataclass(frozen=True, eq=False)
class TangentFeatures:
    """phi(x) = grad_w f(x; w) at the trained weights: the features of the neural tangent kernel.

    Computed in float64, whatever the network is in, without changing it.

    Parameters
    ----------
    module : nn.Module
        A network with one output whose answer for a row does not depend on the other rows of a batch.

    Notes
    -----
    One backward pass per row, in blocks; the result has one column per parameter: 8 m p bytes. Jacot, Gabriel and
    Hongler (2018), "Neural tangent kernel".

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import TangentFeatures
    >>> net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> TangentFeatures(net).transform(torch.zeros(3, 2)).shape  # 2 x 4 + 4 + 4 + 1 parameters
    (3, 17)
    """

    module: nn.Module

    def transform(self, X: Any) -> Float[Array, "m p"]:
        """Return the gradients (m, p) at rows X (m, k)."""
        return self.expand(X).gradient

    def expand(self, X: Any) -> Expansion:
        """Return values (m,) and gradients (m, p) at rows X (m, k)."""
        rows = self.rows(X)
        parameters = self.parameters
        size = sum(value.numel() for value in parameters.values())
        values, gradients = np.empty(len(rows)), np.empty((len(rows), size))
        step = max(1, BLOCK_NUMBERS // max(size, 1))
        with evaluating(self.module):
            each = vmap(grad(self._one, has_aux=True), (None, 0))
            for start in range(0, len(rows), step):
                block = slice(start, start + step)
                found, value = each(parameters, rows[block])
                values[block] = on_host(value)
                gradients[block] = on_host(_flat(found))
        check_finite(gradients, "the gradients of the module")
        return Expansion(values, gradients)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The trained weights by name, detached, in float64."""
        return {name: value.detach().double() for name, value in self.module.named_parameters()}

    @property
    def weights(self) -> Float[Array, " p"]:
        """The trained weights as one vector, in the order of the columns of `transform`."""
        return np.concatenate([on_host(value.reshape(-1)) for value in self.parameters.values()])

    def rows(self, X: Any) -> torch.Tensor:
        """Return rows as a float64 tensor on the device of the module."""
        values = X if isinstance(X, torch.Tensor) else torch.as_tensor(np.array(X, dtype=np.float64))
        return values.detach().to(home(self.module)[0], torch.float64)

    def outputs(self, parameters: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Return f(x; w) of rows (m,)."""
        found = functional_call(self.module, (parameters, self._buffers), (rows,))
        if found.numel() != len(rows):
            raise ValueError(
                f"tangent features need a module with one output per row; got shape {tuple(found.shape)} for "
                f"{len(rows)} rows. Wrap it in a module that returns one of its outputs."
            )
        return found.reshape(len(rows))

    @property
    def _buffers(self) -> dict[str, torch.Tensor]:
        return {
            name: value.double() if value.is_floating_point() else value for name, value in self.module.named_buffers()
        }

    def _one(self, parameters: dict[str, torch.Tensor], row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value = self.outputs(parameters, row[None])[0]
        return value, value


def _flat(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return stacked parameters as rows of one matrix."""
    return torch.cat([value.reshape(len(value), -1) for value in parameters.values()], dim=1)


@dataclass(frozen=True, eq=False)
class TangentGeometry(Geometry):
    """h(x) = J(x) (J'J + ridge I)^-1 J(x)': the Gauss-Newton leverage of a whole network, J its gradients.

    Parameters
    ----------
    module : nn.Module
        A trained network with one output.
    ridge : "default" or float, default="default"
        In the sum convention; "default" is 1e-4 tr(J'J) / min(n, p).
    fit_intercept : bool, default=True
        Whether a constant is left free, beside all parameters.
    exactness : {"none", "given"}, default="none"
        Of a network "none"; "given" for a ridge regression on these very gradients.

    Notes
    -----
    For small networks: exact, by the (n, n) kernel J J' where there are more parameters than rows, and 8 n p bytes of
    gradients kept then. Beyond, `conjugate_gradient_leverage`. Immer, Korzepa and Bauer (2021), "Improving predictions
    of Bayesian neural nets via local linearization".

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from hatband.nn import TangentGeometry
    >>> net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 1))
    >>> space = TangentGeometry(net).fit(torch.randn(20, 2))
    >>> space.leverage(space.features(torch.randn(5, 2))).shape
    (5,)
    """

    module: nn.Module
    ridge: Any = "default"
    fit_intercept: bool = True
    exactness: Exactness = "none"

    def fit(self, X: Any, sample_weight: Array | None = None) -> FeatureSpace:
        """Measure the training rows X and return the space."""
        features = TangentFeatures(self.module)
        gradients = features.transform(X)
        ridge = self._strength(gradients)
        weights = combined_weights(None, sample_weight, len(gradients))
        return FeatureSpace(
            factor=Auto().factor(gradients, ridge, weights, self.fit_intercept),
            ridge=ridge,
            n_samples=len(gradients),
            exactness=self.exactness,
            feature_map=features,
            inputs_from="model_inputs",
        )

    def _strength(self, gradients: Array) -> float:
        if not isinstance(self.ridge, str):
            return float(check_ridge(self.ridge))
        check_in(self.ridge, ("default",), "ridge")
        centred = gradients - gradients.mean(axis=0) if self.fit_intercept else gradients
        return SMALL_RIDGE * float(np.square(centred).sum()) / min(gradients.shape) or SMALL_RIDGE
