"""The whole network as a linear model: its gradient in all parameters as features, and their leverage."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from hatband.arrays.backend import backend_of, on_host
from hatband.arrays.typing import Array, Float
from hatband.checks import check_finite
from hatband.formulas.ridge_choice import NO_TARGETS, chosen_ridge, whole_network_ridge
from hatband.geometry import Geometry
from hatband.geometry.base import Exactness, FeatureSpace, combined_weights
from hatband.linalg import Auto
from hatband.nn.measure.batches import each, home, n_rows, placed, wide_on_host
from hatband.nn.measure.state import check_initialised, copied

# Numbers in one block of gradients: 64 MB.
BLOCK_NUMBERS = 2**23


class Expansion(NamedTuple):
    """f(x) and grad f(x) of rows: f(x; w) is about f(x) + grad f(x)'(w - w_0) near the trained w_0."""

    value: Array
    """f(x), (m,)."""
    gradient: Array
    """Derivatives in all parameters, (m, p)."""


@dataclass(frozen=True, eq=False)
class DoubleNetwork:
    """A copy of a network in float64, in evaluation mode, whose gradients are computed row by row.

    A copy, because torch swaps parameters into a module while it differentiates: threads share the original.

    Parameters
    ----------
    module : nn.Module
        The copy.
    device : torch.device
        Where it is.
    """

    module: nn.Module
    device: torch.device

    @classmethod
    def of(cls, module: nn.Module) -> "DoubleNetwork":
        """Copy a network to its own device, or to the CPU if the device has no float64."""
        return cls.on(module, gradient_device(module))

    @classmethod
    def on(cls, module: nn.Module, device: torch.device) -> "DoubleNetwork":
        """Copy a network to a device that has float64."""
        check_initialised(module)
        _check_functional(module)
        return cls(copied(module).to(device).double().eval(), device)

    @cached_property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The trained weights by name, detached."""
        return {name: value.detach() for name, value in self.module.named_parameters()}

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return n_parameters(self.module)

    def rows(self, X: Any) -> torch.Tensor:
        """Return an array or tensor as float64 rows on the device of the network."""
        values = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.array(X, dtype=np.float64))
        return placed(values.detach(), self.device, torch.float64)

    def outputs(self, parameters: dict[str, torch.Tensor], rows: Any) -> torch.Tensor:
        """Return f(x; w) of rows (m,), which may be nested in tuples and dicts."""
        rows = each(rows, torch.Tensor.clone)
        arguments = () if isinstance(rows, Mapping) else rows if isinstance(rows, tuple) else (rows,)
        found = functional_call(self.module, parameters, arguments, rows if isinstance(rows, Mapping) else None)
        return one_output(found, n_rows(rows))

    def expand(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values (b,) and gradients (b, p) at a block of rows."""
        try:
            found, values = vmap(grad(self._one, has_aux=True), (None, 0))(self.parameters, rows)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refuse_failing(rows)
            raise ValueError(
                "tangent features need a module that torch.func can differentiate row by row, vmap(grad(module)); it "
                f"failed with: {str(error).splitlines()[0]} It must not have operations in place, branches on values "
                "or recurrent layers (nn.LSTM, nn.GRU, nn.RNN). Otherwise measure its last layer (layer=None)."
            ) from error
        return values, torch.cat([value.reshape(len(value), -1) for value in found.values()], dim=1)

    def _refuse_failing(self, rows: Any) -> None:
        """Run the module without gradients, so that its own error is raised if it fails there too."""
        try:
            self.outputs(self.parameters, rows)
        except RuntimeError as error:
            error.add_note(
                "Gradients are computed with a copy of the module in float64. A tensor that the module makes must have "
                "the type of its inputs: use x.new_zeros(...) or dtype=x.dtype. Arrays become float64; pass the codes "
                "of an embedding as a tensor of integers."
            )
            raise

    def _one(self, parameters: dict[str, torch.Tensor], row: Any) -> tuple[torch.Tensor, torch.Tensor]:
        value = self.outputs(parameters, each(row, lambda leaf: leaf[None]))[0]
        return value, value


def _check_functional(module: nn.Module) -> None:
    """Raise if torch cannot call a module with other weights, which its derivatives need."""
    for part in module.modules():
        if isinstance(part, (nn.DataParallel, torch.jit.ScriptModule)):
            raise ValueError(
                "tangent features need a module that torch.func can call with other weights; this is not possible "
                f"with {type(part).__name__}. Pass the module that was wrapped or compiled (module.module of a "
                "DataParallel), or measure its last layer (layer=None)."
            )


def one_output(found: Any, count: int) -> torch.Tensor:
    """Return the output of a module as (count,); ValueError unless it is one number per row."""
    if not isinstance(found, torch.Tensor) or found.numel() != count:
        seen = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(
            f"tangent features need a module with one output per row; got {seen} for {count} rows. Wrap it in a module "
            "that returns one of its outputs, or measure its last layer (layer=None), which all outputs share."
        )
    return found.reshape(count)


def n_parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module; ValueError if it is 0."""
    check_initialised(module)
    count = sum(value.numel() for value in module.parameters())
    if not count:
        raise ValueError(f"tangent features need a module with parameters; {type(module).__name__} has none.")
    return count


def gradient_device(module: nn.Module) -> torch.device:
    """Return the device of a module; or the CPU, with a warning, if the device has no float64."""
    return torch.device(getattr(backend_of(torch.empty(0, device=home(module)[0])), "device", "cpu"))


def blocks_of_gradients(count: int, size: int) -> Iterator[slice]:
    """Yield slices of rows whose gradients in `size` parameters fill one block."""
    step = max(1, BLOCK_NUMBERS // size)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


@dataclass(frozen=True, eq=False)
class TangentFeatures:
    """phi(x) = grad_w f(x; w) at the trained weights: the features of the neural tangent kernel.

    Computed in float64 on a copy of the network.

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
        return expansion(DoubleNetwork.of(self.module), X)

    @property
    def weights(self) -> Float[Array, " p"]:
        """The trained weights as one vector, in the order of the columns of `transform`."""
        return np.concatenate([wide_on_host(value.reshape(-1)) for value in self.module.parameters()])


def expansion(network: DoubleNetwork, X: Any) -> Expansion:
    """Return values (m,) and gradients (m, p) of a network at rows X (m, k), on the host."""
    rows, size = network.rows(X), network.n_parameters
    values, gradients = np.empty(len(rows)), np.empty((len(rows), size))
    for block in blocks_of_gradients(len(rows), size):
        value, gradient = network.expand(rows[block])
        values[block], gradients[block] = on_host(value), on_host(gradient)
    check_finite(gradients, "the gradients of the module")
    return Expansion(values, gradients)


@dataclass(frozen=True, eq=False)
class TangentGeometry(Geometry):
    """h(x) = J(x) (J'J + ridge I)^-1 J(x)': the Gauss-Newton leverage of a whole network, J its gradients.

    Parameters
    ----------
    module : nn.Module
        A trained network with one output.
    ridge : float or "auto", default="auto"
        In the sum convention; "auto" is 1e-2 tr(J'J) / min(n, p), J centred where a constant is free. A geometry sees
        no y to choose it by.
    fit_intercept : bool, default=True
        Whether a constant is free, in addition to all parameters.
    exactness : {"none", "given"}, default="none"
        Of a network "none"; "given" for a ridge regression on these very gradients.

    Notes
    -----
    For small networks: exact, by the (n, n) kernel J J' where there are more parameters than rows, and 8 n p bytes of
    gradients kept then. Beyond, `LowRankTangentGeometry`, or `conjugate_gradient_leverage` for a few rows. Immer,
    Korzepa and Bauer (2021), "Improving predictions of Bayesian neural nets via local linearization".

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
    ridge: Any = "auto"
    fit_intercept: bool = True
    exactness: Exactness = "none"

    def fit(self, X: Any, sample_weight: Array | None = None) -> FeatureSpace:
        """Measure the training rows X and return the space."""
        features = TangentFeatures(self.module)
        gradients = features.transform(X)
        weights = combined_weights(None, sample_weight, len(gradients))
        ridge = self._strength(gradients, np.ones(len(gradients)) if weights is None else weights)
        return FeatureSpace(
            factor=Auto().factor(gradients, ridge, weights, self.fit_intercept),
            ridge=ridge,
            n_samples=len(gradients),
            exactness=self.exactness,
            feature_map=features,
            inputs_from="model_inputs",
        )

    def _strength(self, gradients: Array, weights: Array) -> float:
        def auto() -> float:
            centred = gradients - np.average(gradients, axis=0, weights=weights) if self.fit_intercept else gradients
            trace = float(weights @ np.square(centred).sum(axis=1))
            return whole_network_ridge(trace, int(np.count_nonzero(weights)), gradients.shape[1])

        return chosen_ridge(self.ridge, auto=auto, spectrum=NO_TARGETS)
