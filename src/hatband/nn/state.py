"""What training must leave as it found it: torch's generators, modes, gradients and, after an error, weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def seeded(seed: int, device: Any = None) -> Iterator[None]:
    """Draw from torch's global generators as if they were seeded, and leave them as they were."""
    device = torch.device("cpu" if device is None else device)
    on_gpu = device.type == "cuda"
    index = torch.cuda.current_device() if on_gpu and device.index is None else device.index
    # By name: without one, torch takes the accelerator that it prefers here.
    with torch.random.fork_rng(devices=[index] if on_gpu else [], device_type="cuda"):
        # torch.manual_seed would seed every device, those that are not forked too.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def put_back_on_failure(module: Any) -> Iterator[None]:
    """Leave modes as they were and no gradients behind; after an error, the weights as they were too."""
    state, modes = copied_state(module), [(part, part.training) for part in module.modules()]
    try:
        yield
    except BaseException:
        module.load_state_dict(state)
        raise
    finally:
        module.zero_grad(set_to_none=True)
        for part, mode in modes:
            part.training = mode


def copied_state(module: Any) -> dict[str, Any]:
    """Return weights and buffers that further training does not touch."""
    return {name: value.clone() for name, value in module.state_dict().items()}
