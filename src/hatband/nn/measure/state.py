"""The state of a network: contexts that restore it, and a fingerprint that detects changes."""

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

# torch's generators belong to the process: two threads that drew from them at once would draw each other's numbers.
_GENERATORS = threading.RLock()
# Numbers up to which the whole state is read at every check, and entries of a tensor that are read of a larger one.
_READ_ALWAYS, _SAMPLED = 250_000, 128
# 2^64 over the golden ratio, as a signed number: its multiples are spread evenly.
_ODD = -7_046_029_254_386_353_131


def check_trainable(module: Any) -> None:
    """Raise unless the module has weights to train, in a type that Adam can use."""
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
    """Raise unless it is a module with weights: lazy layers get their shapes from the first batch."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module; got {type(module).__name__}.")
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value):
            raise ValueError(
                f"the module must have weights; {name!r} of a lazy layer has none yet. Run the module on one batch, "
                "module(X[:2]), first."
            )


def usable_device(device: Any) -> torch.device:
    """Return the device; ValueError if torch cannot put tensors on it."""
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
    """Draw from torch's global generators as if they were seeded, one thread at a time; restore their state after."""
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
    """Enable gradients in any mode of the caller."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation without gradients; restore the mode of every part after."""
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
    """Restore modes and remove gradients after; after an error, restore the weights too."""
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
            f"{type(module).__name__} must be copied here, but it keeps a tensor of its last pass that has gradients. "
            "Keep value.detach() in its forward, or run it once under torch.no_grad()."
        )
        raise


def copied_state(module: Any) -> dict[str, Any]:
    """Return copies of weights and buffers, which further training does not change."""
    # A module may keep more than tensors there (get_extra_state).
    return {name: copy.deepcopy(value) for name, value in module.state_dict().items()}


@dataclass(eq=False)
class StateFingerprint:
    """A fingerprint of the state of a network: shape and a sum of the bytes of every weight and buffer.

    Leverage and calibration scores belong to one state: further training changes it.

    Parameters
    ----------
    types : dict of name -> torch.dtype
        Of the tensors in the state.
    sums : dict of name -> (shape, int)
        Of 64 bits that depend on every word of eight bytes and on its place: exact, and the same on every device.

    Notes
    -----
    Up to 250,000 numbers are read whole at every check, which takes some 0.5 ms. A larger state is read whole when a
    tensor has been replaced, moved or written to, which torch counts (`Tensor._version`), and at the first check of a
    copy. Else 128 evenly spaced entries of each tensor are read: fused optimisers, and those that write to
    ``parameter.data``, change the weights but not the count. What is not noticed: in a state of more than 250,000
    numbers, a write through ``.data`` or through memory shared with NumPy that leaves all of these entries as they
    were.
    """

    types: dict[str, torch.dtype]
    sums: dict[str, Any]
    _reading: Any = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Read the state of a network once."""
        state = _state(module)
        return cls({name: values.dtype for name, values in state.items()}, _sums(state))

    def check(self, module: nn.Module) -> None:
        """Raise ValueError unless the network has this state, in any type and on any device."""
        state = _state(module)
        # Before the whole state is read, so that the next check notices what was written in between.
        reading = _reading(state)
        if reading is not None and reading == self._reading:
            return
        # Back from float64 the bits are what they were.
        found = _sums({name: values.to(self.types.get(name, values.dtype)) for name, values in state.items()})
        changed = sorted(name for name, _ in found.items() ^ self.sums.items())
        if changed:
            raise ValueError(
                f"the network must be as it was measured; its state has changed since, the first difference is in "
                f"{changed[0]!r}. Leverage and calibration scores belong to the old weights: call fit_train and "
                "calibrate again, or train on a copy, copy.deepcopy(module)."
            )
        self._reading = reading

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other tensors, at other addresses.
        return {"types": self.types, "sums": self.sums, "_reading": None}


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    # A module may keep more than tensors there (get_extra_state).
    state = module.state_dict(keep_vars=True)
    return {name: values for name, values in state.items() if isinstance(values, torch.Tensor)}


def _reading(state: Mapping[str, torch.Tensor]) -> Any:
    """Return place, count of writes and a sample of a large state; None if the whole state must be read."""
    tensors = list(state.values())
    # torch does not count what is written to a tensor made in inference mode.
    if sum(map(torch.Tensor.numel, tensors)) <= _READ_ALWAYS or any(map(torch.Tensor.is_inference, tensors)):
        return None
    # The storage itself too: memory that was freed and taken again would be at the same address.
    places = [(v.data_ptr(), v._version, StorageWeakRef(v.untyped_storage())) for v in tensors]
    forms = [(name, v.dtype, v.shape, v.stride()) for name, v in state.items()]
    samples = [tensor_bytes(_sampled(values)) for values in tensors]
    together = torch.cat([sample.to(samples[0].device) for sample in samples])
    return forms, places, int(_sum_of_words(together))


def _sampled(values: torch.Tensor) -> torch.Tensor:
    if values.numel() <= _SAMPLED:
        return values
    step = values.numel() // _SAMPLED
    # In the order of memory where that is known: other orders cost a copy of the whole tensor, or an index.
    if values.is_contiguous():
        return values.detach().reshape(-1)[::step]
    return values.detach().take(torch.arange(0, values.numel(), step, device=values.device))


def _sums(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    sums = [_sum_of_words(tensor_bytes(values)) for values in state.values()]
    # To the host at once: every number that is waited for costs an accelerator a pause.
    together = torch.stack([each.to(sums[0].device) for each in sums]).tolist() if sums else []
    shapes = (tuple(values.shape) for values in state.values())
    return dict(zip(state, zip(shapes, together, strict=True), strict=True))


def _sum_of_words(content: torch.Tensor) -> torch.Tensor:
    """Return a sum modulo 2^64 over bytes in words of eight, each mixed with its place."""
    last = len(content) // 8 * 8
    total = torch.zeros((), dtype=torch.int64, device=content.device)
    if last < len(content):
        total = _mixed(nn.functional.pad(content[last:], (0, 8 - len(content) + last)).view(torch.int64), -1)
    # In pieces that stay in the cache of a processor; an accelerator wants few and large ones.
    words, step = content[:last].view(torch.int64), 2**15 if content.device.type == "cpu" else 2**22
    for start in range(0, len(words), step):
        total += _mixed(words[start : start + step], start)
    return total


def _mixed(words: torch.Tensor, start: int) -> torch.Tensor:
    """Return the sum of words mixed with their places by two rounds of multiplication and exclusive or.

    One round would miss half of all pairs of values that differ in their sign alone and change places.
    """
    mixed = torch.arange(start, start + len(words), device=words.device).mul_(_ODD).add_(words)
    for _ in range(2):
        mixed.mul_(_ODD)
        mixed.bitwise_xor_((mixed >> 32).bitwise_and_(2**32 - 1))
    return mixed.sum()


def tensor_bytes(values: torch.Tensor) -> torch.Tensor:
    """Return the content of a tensor as bytes, in the order of its entries and where it is."""
    values = values.detach()
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    # A clone lies at the start of its memory, as words of eight must.
    whole = values.contiguous() if values.storage_offset() == 0 else values.clone(memory_format=torch.contiguous_format)
    return whole.reshape(-1).view(torch.uint8)
