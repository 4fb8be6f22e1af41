"""What training must leave as it found it: torch's generators, modes, gradients and, after an error, weights."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parameter import is_lazy

# torch's generators belong to the process: two threads that drew from them at once would draw each other's numbers.
_GENERATORS = threading.RLock()


def check_trainable(module: Any) -> None:
    """Raise unless there is something to train, in numbers that Adam works with."""
    check_initialised(module)
    free = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not free:
        raise ValueError(
            f"{type(module).__name__} has no parameter with requires_grad=True; there is nothing to train."
        )
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise ValueError(
            "the weights must be tensors that can be trained; these were made in torch.inference_mode(). Build the "
            "module outside of it."
        )
    if any(parameter.dtype == torch.float16 for parameter in free):
        raise ValueError("the weights must be float32, float64 or bfloat16 to be trained; got float16. Call .float().")


def check_initialised(module: Any) -> None:
    """Raise unless it is a module with weights: lazy layers wait for the batch that tells them their shapes."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module; got {type(module).__name__}.")
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value):
            raise ValueError(
                f"the module must have weights; {name!r} of a lazy layer has none yet. Run the module on one batch, "
                "module(X[:2]), first."
            )


def usable_device(device: Any) -> torch.device:
    """Return a device that tensors can be put on; ValueError where there is none."""
    try:
        return torch.empty(0, device=device).device
    # An AssertionError is what torch raises that was built without CUDA.
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu', or 'cuda' with a GPU; got {device!r}: {reason}"
        ) from None


@contextmanager
def seeded(seed: int, device: Any = None) -> Iterator[None]:
    """Draw from torch's global generators as if they were seeded, one thread at a time; leave them as they were."""
    device = torch.device("cpu" if device is None else device)
    on_gpu = device.type == "cuda"
    index = torch.cuda.current_device() if on_gpu and device.index is None else device.index
    # By name: without one, torch takes the accelerator that it prefers here.
    with _GENERATORS, torch.random.fork_rng(devices=[index] if on_gpu else [], device_type="cuda"):
        # torch.manual_seed would seed every device, those that are not forked too.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def learning() -> Iterator[None]:
    """Take gradients, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
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


def copied(module: Any) -> Any:
    """Return a deep copy of a module."""
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        error.add_note(
            f"{type(module).__name__} must be copied here, and keeps a tensor of its last pass that gradients hang on. "
            "Keep value.detach() in its forward, or run it once under torch.no_grad()."
        )
        raise


def copied_state(module: Any) -> dict[str, Any]:
    """Return weights and buffers that further training does not touch."""
    # A module may keep more than tensors there (get_extra_state).
    return {name: copy.deepcopy(value) for name, value in module.state_dict().items()}
