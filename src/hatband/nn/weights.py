"""The weights that leverage and calibration scores belong to: a network that was trained on is another one."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import nn

from hatband._kinds import exact_device
from hatband._typing import Array, Float

# Relative to a sum of magnitudes in float64: far above its rounding, in whatever order, far below a step of training.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Weights:
    """Sums by which the parameters of a network are known again.

    Parameters
    ----------
    names : tuple of str
        Of the parameters.
    sums : array (k, 2)
        Sum of the entries of each, and of their magnitudes.
    """

    names: tuple[str, ...]
    sums: Float[Array, "k 2"]

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Read the parameters of a network once."""
        known = dict(module.named_parameters())
        sums = [_sums(parameter) for parameter in known.values()]
        # To the host at once: every number that is waited for costs an accelerator a pause.
        together = torch.stack([pair.to(sums[0].device) for pair in sums]).cpu().numpy() if sums else np.empty((0, 2))
        return cls(tuple(known), together)

    def check(self, module: nn.Module) -> None:
        """Raise ValueError unless the network has these weights."""
        now = Weights.of(module)
        changed = self._changed(now)
        if changed:
            raise ValueError(
                f"the network must be as it was measured; {len(changed)} of its {len(now.names)} parameters have "
                f"changed since, the first is {changed[0]!r}. Leverage and calibration scores belong to the old "
                "weights: call fit_train and calibrate again, or train on a copy, copy.deepcopy(module)."
            )

    def _changed(self, now: "Weights") -> list[str]:
        if now.names != self.names:
            return sorted({*now.names} ^ {*self.names})
        same = np.abs(now.sums - self.sums) <= _ROUNDING * self.sums[:, 1:]
        return [name for name, is_same in zip(self.names, same.all(axis=1), strict=True) if not is_same]


def _sums(parameter: torch.Tensor) -> torch.Tensor:
    values = parameter.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    values = values.to(exact_device(values.device))
    return torch.stack([values.sum(dtype=torch.float64), values.abs().sum(dtype=torch.float64)])
