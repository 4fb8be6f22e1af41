"""The state of a network: what must be left as it was found, and a fingerprint that tells whether it still is."""

import copy
import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

# torch's generators belong to the process: two threads that drew from them at once would draw each other's numbers.
_GENERATORS = threading.RLock()
# Numbers up to which the whole state is read at every check, and entries of a tensor that are read of a larger one.
_READ_ALWAYS, _SAMPLED = 1_000_000, 128


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


class _Reading(NamedTuple):
    """Where the tensors of a state were, and a sample of them, when they were last read whole."""

    places: list[tuple[Any, ...]]
    sample: bytes


@dataclass(eq=False)
class StateFingerprint:
    """What the state of a network is known again by: SHA-256 of shape and bytes of every weight and buffer.

    Leverage and calibration scores belong to one state: a network that was trained on is another one.

    Parameters
    ----------
    types : dict of name -> torch.dtype
        Of the tensors in the state.
    digests : dict of name -> bytes
        Sensitive to every bit and to the order of the values; the same on every device.

    Notes
    -----
    Up to 1,000,000 numbers are read whole at every check, which takes some 2 ms. A larger state is read whole when a
    tensor has been replaced, moved or written to, which torch counts (`Tensor._version`), and at the first check of a
    copy. Else 128 evenly spaced entries of each tensor are read: fused optimisers, and those that write to
    ``parameter.data``, change the weights but not the count. What is not noticed: in a state of more than 1,000,000
    numbers, a write through ``.data`` or through memory shared with NumPy that leaves all of these entries as they
    were.
    """

    types: dict[str, torch.dtype]
    digests: dict[str, bytes]
    _reading: _Reading | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Read the state of a network once."""
        state = _state(module)
        return cls({name: values.dtype for name, values in state.items()}, _digests(state))

    def check(self, module: nn.Module) -> None:
        """Raise ValueError unless the network has this state, in whatever type and on whatever device."""
        state = _state(module)
        # Before the bytes are read: what is written in between then moves the next check.
        reading = _read(state)
        if self._is_as_read(reading):
            return
        # Back from float64 the bits are what they were.
        found = _digests({name: values.to(self.types.get(name, values.dtype)) for name, values in state.items()})
        changed = sorted(name for name, _ in found.items() ^ self.digests.items())
        if changed:
            raise ValueError(
                f"the network must be as it was measured; its state has changed since, the first difference is in "
                f"{changed[0]!r}. Leverage and calibration scores belong to the old weights: call fit_train and "
                "calibrate again, or train on a copy, copy.deepcopy(module)."
            )
        self._reading = reading

    def _is_as_read(self, reading: _Reading | None) -> bool:
        return reading is not None and reading == self._reading

    def __getstate__(self) -> dict[str, Any]:
        # A copy has tensors of its own, at other places.
        return {"types": self.types, "digests": self.digests, "_reading": None}


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    # A module may keep more than tensors there (get_extra_state).
    state = module.state_dict(keep_vars=True)
    return {name: values for name, values in state.items() if isinstance(values, torch.Tensor)}


def _digests(state: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    found = {}
    for name, values in state.items():
        total = hashlib.sha256(repr(tuple(values.shape)).encode())
        total.update(tensor_bytes(values).cpu().numpy().data)
        found[name] = total.digest()
    return found


def tensor_bytes(values: torch.Tensor) -> torch.Tensor:
    """Return the content of a tensor, in the order of its entries, as bytes where it is."""
    values = values.detach()
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return values.contiguous().reshape(-1).view(torch.uint8)


def _read(state: Mapping[str, torch.Tensor]) -> _Reading | None:
    """Return place, count of writes and sample of a large state; None where it is to be read whole."""
    tensors = list(state.values())
    # torch does not count what is written to a tensor made in inference mode.
    if sum(map(torch.Tensor.numel, tensors)) <= _READ_ALWAYS or any(map(torch.Tensor.is_inference, tensors)):
        return None
    # The storage itself too: memory that was freed and taken again would be at the same address.
    places = [
        (name, v.dtype, v.shape, v.stride(), v.data_ptr(), v._version, StorageWeakRef(v.untyped_storage()))
        for name, v in state.items()
    ]
    samples = [tensor_bytes(_sampled(values)) for values in tensors]
    # To the host at once: every number that is waited for costs an accelerator a pause.
    together = torch.cat([sample.to(samples[0].device) for sample in samples])
    return _Reading(places, hashlib.sha256(together.cpu().numpy().data).digest())


def _sampled(values: torch.Tensor) -> torch.Tensor:
    step = max(1, values.numel() // _SAMPLED)
    return values.detach().take(torch.arange(0, values.numel(), step, device=values.device))
