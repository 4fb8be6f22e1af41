"""The state of a network: what must be left as it was found, and a fingerprint that tells whether it still is."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
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
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation without gradients; leave every part in the mode that it was found in."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


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


@dataclass(frozen=True, eq=False)
class StateFingerprint:
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
