"""What training minimises: a loss in units in which the target has mean 0 and variance 1."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import singledispatch
from typing import Any, NamedTuple

import torch

from hatband._backend import exact_device
from hatband._checks_network import check_columns, check_outputs
from hatband.nn.batches import called, home
from hatband.nn.epochs import Batch, EpochRows
from hatband.nn.moments import Moments, moments
from hatband.nn.network import MLP, NoisyNetwork


class Units(NamedTuple):
    """What makes targets, and what makes outputs, numbers of mean 0 and variance 1."""

    target: Moments
    output: Moments

    def errors(self, output: Any, target: Any) -> Any:
        """Return target - output in standard units, in the precision of the output."""
        wanted = ((target - self.target.mean) / self.target.scale).to(output)
        return wanted - (output - self.output.mean.to(output)) / self.output.scale.to(output)


@singledispatch
@contextmanager
def standard_units(module: Any, rows: EpochRows) -> Iterator[Units]:
    """Train a module that answers in units of y: only the loss is in standard units."""
    target = moments((batch.targets, batch.weight) for batch in rows.blocks()).to(exact_device(home(module)[0]))
    yield Units(target, target)


@standard_units.register
@contextmanager
def _standard_units_inside(module: MLP, rows: EpochRows) -> Iterator[Units]:
    """Train a perceptron on standardised inputs and target, and leave it in units of y."""
    device = exact_device(home(module)[0])
    inputs = moments((batch.inputs, batch.weight) for batch in rows.blocks())
    check_columns(len(inputs.mean), len(module.input_mean), "X")
    module.set_inputs(*inputs)
    target = moments((batch.targets, batch.weight) for batch in rows.blocks()).to(device)
    check_columns(len(target.mean), module.head.out_features, "y")
    with module.standard_target(*target):
        yield Units(target, Moments(torch.zeros_like(target.mean), torch.ones_like(target.scale)))


def _squared_error(module: Any, batch: Batch, units: Units) -> Any:
    output = _columns(called(module, batch.inputs), batch.targets, module)
    return _mean(units.errors(output, batch.targets) ** 2, batch.weight)


def _gaussian(module: Any, batch: Batch, units: Units) -> Any:
    mean, log_noise = (_columns(part, batch.targets, module) for part in module.mean_and_log_noise(batch.inputs))
    log_noise = log_noise - units.output.scale.to(log_noise).log()
    # -log N(y; mu, sigma^2) without its constant.
    return _mean(0.5 * (units.errors(mean, batch.targets) * (-log_noise).exp()) ** 2 + log_noise, batch.weight)


def _mean(losses: Any, weight: Any) -> Any:
    """Return the mean of losses (b, q); that of their rows times weights of mean 1 over all batches."""
    return losses.mean() if weight is None else (losses.mean(dim=1) * weight.to(losses)).mean()


LOSSES: Mapping[str, Callable[[Any, Batch, Units], Any]] = {"squared": _squared_error, "gaussian": _gaussian}


def _columns(output: Any, target: Any, module: Any) -> Any:
    """Return outputs (b, q); one value per row may come without an axis, but nothing is broadcast."""
    columns = output[:, None] if output.ndim == 1 else output
    check_outputs(tuple(columns.shape), tuple(target.shape), type(module).__name__)
    return columns


def check_loss(module: Any, loss: str) -> None:
    """Raise unless the module has what the loss is about."""
    silent = isinstance(module, MLP) and module.noise_head is None
    noisy = isinstance(module, NoisyNetwork) and not silent
    if loss == "gaussian" and not noisy:
        raise ValueError(
            'loss="gaussian" needs a module with mean_and_log_noise(x) -> (mean, log sigma), such as '
            f"MLP(noise_head=True); {type(module).__name__} has none."
        )
