"""A perceptron for tables: inputs standardised inside, a head for the mean and, on request, one for the noise."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import nn

from hatband.arrays.typing import Array, Float
from hatband.checks import check_at_least, check_between, check_in

ACTIVATIONS: Mapping[str, type] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


@runtime_checkable
class NoisyNetwork(Protocol):
    """A network that also predicts the size of the noise, as the Gaussian likelihood needs."""

    def mean_and_log_noise(self, x: Any) -> tuple[Any, Any]:
        """Return the mean (n, q) and the logarithm (n, q) of the standard deviation of the noise."""


class MLP(nn.Module):
    """mu(x) = W phi(x) + b: hidden layers phi on inputs that the network standardises itself, then a linear head.

    `fit_network` sets the standardisation from the rows it trains on, trains the head on a target of mean 0 and
    variance 1, and writes the units of y into the head's weights at the end: afterwards inputs and outputs are in
    their own units, and the head is a plain ``nn.Linear``, which is what last-layer leverage needs.

    Parameters
    ----------
    n_inputs : int
        Columns of x.
    n_outputs : int, default=1
        Columns of the prediction.
    widths : sequence of int, default=(64, 64)
        Widths of the hidden layers; the last one is the number of features that leverage is measured on.
    activation : {"relu", "gelu", "silu", "tanh"}, default="relu"
        Activation after each hidden layer. "tanh" saturates: far from the data its features, and so leverage, stop
        growing.
    dropout : float in [0, 1), default=0.0
        Share of each hidden layer that is dropped in training.
    noise_head : bool, default=False
        Whether a second linear head on the same features gives log sigma(x), the logarithm of the noise's standard
        deviation; it is trained by ``fit_network(..., loss="gaussian")``.

    Attributes
    ----------
    hidden : nn.Sequential
        phi, on standardised inputs.
    head : nn.Linear
        The mean.
    noise_head : nn.Linear or None
        The logarithm of the noise.
    design : dict
        The parameters above: ``MLP(**module.design)`` is untrained and of the same architecture.

    Raises
    ------
    ValueError
        When a parameter is out of range, or there is no hidden layer.

    Notes
    -----
    Heads with log sigma: Nix and Weigend (1994), *Estimating the mean and variance of the target probability
    distribution*. Weights are drawn from torch's global generator, as in every module. Cost of a row: the sum of the
    products of neighbouring widths.

    Examples
    --------
    >>> import torch
    >>> from hatband.nn import MLP
    >>> module = MLP(3, widths=(8,), noise_head=True)
    >>> x = torch.zeros(5, 3)
    >>> module(x).shape, module.features(x).shape, module.noise(x).shape
    (torch.Size([5, 1]), torch.Size([5, 8]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int = 1,
        widths: Sequence[int] = (64, 64),
        activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
        dropout: float = 0.0,
        *,
        noise_head: bool = False,
    ) -> None:
        super().__init__()
        check_in(activation, tuple(ACTIVATIONS), "activation")
        rate = check_between(dropout, 0.0, 1.0, "dropout")
        sizes = (check_at_least(n_inputs, 1, "n_inputs"), *_checked_widths(widths))
        outputs = check_at_least(n_outputs, 1, "n_outputs")
        self.design: dict[str, Any] = {
            "n_inputs": sizes[0],
            "n_outputs": outputs,
            "widths": sizes[1:],
            "activation": activation,
            "dropout": rate,
            "noise_head": bool(noise_head),
        }
        self.hidden = nn.Sequential(
            *(layer for before, after in pairwise(sizes) for layer in _block(before, after, activation, rate))
        )
        self.head = nn.Linear(sizes[-1], outputs)
        self.noise_head = _without_slope(nn.Linear(sizes[-1], outputs)) if noise_head else None
        self.register_buffer("input_mean", torch.zeros(sizes[0]))
        self.register_buffer("input_scale", torch.ones(sizes[0]))
        self.register_buffer("target_mean", torch.zeros(outputs))
        self.register_buffer("target_scale", torch.ones(outputs))

    def features(self, x: Any) -> Any:
        """Return phi(x), the output of the last hidden layer (n, width)."""
        # What has one column would be broadcast.
        if x.shape[-1:] != self.input_mean.shape:
            check_built_for(tuple(x.shape), len(self.input_mean), "X")
        # Subtraction in the precision of x: float64 inputs far from 0 keep their digits.
        standard = (x - self.input_mean) / self.input_scale
        return self.hidden(standard.to(self.head.weight.dtype))

    def forward(self, x: Any) -> Any:
        """Return the mean mu(x) in units of y, (n, n_outputs)."""
        return self.head(self.features(x))

    def mean_and_log_noise(self, x: Any) -> tuple[Any, Any]:
        """Return the mean and log sigma, both (n, n_outputs); ValueError without a noise head."""
        if self.noise_head is None:
            raise ValueError("this MLP has no noise head; build it with noise_head=True.")
        phi = self.features(x)
        return self.head(phi), self.noise_head(phi)

    def noise(self, x: Any) -> Any:
        """Return sigma(x), the standard deviation of the noise in units of y, (n, n_outputs)."""
        return self.mean_and_log_noise(x)[1].exp()

    @torch.no_grad()
    def set_inputs(self, mean: Float[Array, " inputs"], scale: Float[Array, " inputs"]) -> Self:
        """Standardise inputs by this mean and scale from now on."""
        self.input_mean.copy_(mean)
        self.input_scale.copy_(scale)
        return self

    @contextmanager
    def standard_target(self, mean: Float[Array, " outputs"], scale: Float[Array, " outputs"]) -> Iterator[None]:
        """Predict in units of a target of mean 0 and scale 1 inside the context, and in units of y after it."""
        self._rescale(-self.target_mean / self.target_scale, 1 / self.target_scale)
        self.target_mean.copy_(mean)
        self.target_scale.copy_(scale)
        yield
        self._rescale(self.target_mean, self.target_scale)

    @torch.no_grad()
    def _rescale(self, shift: Any, factor: Any) -> None:
        """Make the outputs factor * output + shift."""
        self.head.weight.mul_(factor[:, None])
        self.head.bias.mul_(factor).add_(shift)
        if self.noise_head is not None:
            self.noise_head.bias.add_(factor.log())


def _block(before: int, after: int, activation: str, dropout: float) -> list[nn.Module]:
    layers = [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return [*layers, nn.Dropout(dropout)] if dropout else layers


@torch.no_grad()
def _without_slope(head: nn.Linear) -> nn.Linear:
    """Return the head with noise 1 everywhere, so that the start of training does not depend on x."""
    head.weight.zero_()
    head.bias.zero_()
    return head


def _checked_widths(widths: Any) -> tuple[int, ...]:
    """Return the widths of at least one hidden layer; the last one holds the features."""
    if not isinstance(widths, Sequence) or isinstance(widths, str) or len(widths) == 0:
        raise ValueError(
            "widths must be a tuple or list with the width of at least one hidden layer, such as (64, 64): the output "
            f"of the last one is the features of leverage; got {widths!r}."
        )
    return tuple(check_at_least(width, 1, "widths") for width in widths)


def check_built_for(shape: tuple[int, ...], expected: int, name: str) -> None:
    """Raise unless rows have as many columns as a network was built for."""
    if len(shape) != 2 or shape[1] != expected:
        raise ValueError(
            f"{name} must have shape (n, {expected}), the columns for which the network was built; got shape {shape}."
        )
