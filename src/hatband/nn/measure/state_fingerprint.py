"""The weights that leverage and calibration scores belong to: a network that was trained on is another one."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class Weights:
    """Sums by which the weights and buffers of a network are known again.

    Parameters
    ----------
    types : dict of name -> torch.dtype
        Of the tensors in the state of the network.
    sums : dict of name -> int
        Of their bytes, in words of eight, modulo 2^64: exact, the same in every order and on every device.
    """

    types: dict[str, torch.dtype]
    sums: dict[str, int]

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Read the state of a network once."""
        state = _state(module)
        types = {name: values.dtype for name, values in state.items()}
        return cls(types, _sums(state))

    def check(self, module: nn.Module) -> None:
        """Raise ValueError unless the network has this state, in whatever type and on whatever device."""
        state = _state(module)
        # Back from float64 the bits are what they were.
        sums = _sums({name: values.to(self.types.get(name, values.dtype)) for name, values in state.items()})
        changed = sorted(name for name, _ in sums.items() ^ self.sums.items())
        if changed:
            raise ValueError(
                f"the network must be as it was measured; its state has changed since, the first difference is in "
                f"{changed[0]!r}. Leverage and calibration scores belong to the old weights: call fit_train and "
                "calibrate again, or train on a copy, copy.deepcopy(module)."
            )


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    # A module may keep more than tensors there (get_extra_state).
    return {name: values for name, values in module.state_dict().items() if isinstance(values, torch.Tensor)}


def _sums(state: dict[str, torch.Tensor]) -> dict[str, int]:
    sums = [_sum_of_words(values) for values in state.values()]
    # To the host at once: every number that is waited for costs an accelerator a pause.
    together = torch.stack([each.to(sums[0].device) for each in sums]).tolist() if sums else []
    return dict(zip(state, together, strict=True))


def _sum_of_words(values: torch.Tensor) -> torch.Tensor:
    values = torch.view_as_real(values) if values.is_complex() else values
    # A clone lies at the start of its memory, as words of eight must.
    whole = values.contiguous() if values.storage_offset() == 0 else values.clone(memory_format=torch.contiguous_format)
    content = whole.detach().reshape(-1).view(torch.uint8)
    last = len(content) // 8 * 8
    return content[:last].view(torch.int64).sum() + content[last:].sum(dtype=torch.int64)
