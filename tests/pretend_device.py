"""A device "pretend" that is not there: it holds CPU tensors, computes true numbers, and refuses what CUDA refuses.

Tensors of two devices do not mix, a tensor on the device is no NumPy array, and what is copied to the host is counted.
It cannot show what depends on real kernels: speed, memory, the order of asynchronous work, other rounding, TF32. Beside
a GPU it is not registered, and tests of it are skipped: autograd takes one kind of accelerator in a process.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"


class _Module:
    """What torch asks of torch.pretend; random numbers on the device are those of the CPU."""

    def is_available(self) -> bool:
        return False

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None: ...

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None: ...


STANDS_IN = not torch.cuda.is_available()
PRETENDED = pytest.mark.skipif(not STANDS_IN, reason="there is a GPU, beside which torch takes no other accelerator")
if STANDS_IN:
    # Once per process, and before the first backward pass: autograd then has a thread for this device too.
    _setup_privateuseone_for_python_backend(NAME, _Module())
DEVICE = torch.device(NAME if STANDS_IN else "privateuseone", 0)
PRETEND = pytest.param(str(DEVICE), marks=PRETENDED)
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(STANDS_IN, reason="no CUDA device")])
CPU = torch.device("cpu")

_COPIES = {"aten::copy_", "aten::_to_copy"}
# CUDA takes indices on the CPU, and copies them over.
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# The size of what they return is in the values.
_COUNTING = {"aten::nonzero", "aten::masked_select", "aten::_unique2"}
# No number of the CPU is taken here either.
_JOINING = {"aten::cat", "aten::stack", "aten::index_select", "aten::gather"}
_RESIZING = {"aten::resize_", "aten::resize_as_", "aten::set_"}
# Their kernels on every device resize an empty tensor, which a tensor that holds another cannot follow.
_FACTORIES = ("eye", "eye.m", "arange", "arange.start", "arange.start_step", "randperm")


@dataclass
class Transfers:
    """What crossed the border: bytes each way, and how often the host waited for a value."""

    to_host: int = 0
    to_device: int = 0
    waits: int = 0


@dataclass
class _State:
    watching: list[Transfers]
    has_float64: bool = True


_STATE = _State([])


@contextmanager
def watched() -> Iterator[Transfers]:
    """Count what is copied between host and device within."""
    seen = Transfers()
    _STATE.watching.append(seen)
    try:
        yield seen
    finally:
        _STATE.watching.remove(seen)


@contextmanager
def without_float64() -> Iterator[None]:
    """Refuse float64 on the device within, as MPS does; a copy to the host converts on the device there."""
    _STATE.has_float64 = False
    try:
        yield
    finally:
        _STATE.has_float64 = True


class PretendTensor(torch.Tensor):
    """A tensor on the device, which holds one on the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "PretendTensor":
        """Return a tensor without memory of its own."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @property
    def data(self) -> "PretendTensor":
        """The tensor without its history."""
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: "PretendTensor") -> None:
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """Make `module.to` exchange whole parameters: assigning `.data` would leave the held tensor behind."""
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, torch.Tensor], *_: Any) -> "PretendTensor":
        return PretendTensor(parts["held"])

    def __repr__(self, **_: Any) -> str:
        return f"pretend({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretendTensor":
        """Copy what is held: torch would copy memory that is not there."""
        if id(self) not in memo:
            copied = self.detach().clone()
            is_parameter = isinstance(self, torch.nn.Parameter)
            copied = torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
            copied.grad = copy.deepcopy(self.grad, memo)
        return memo[id(self)]

    def numpy(self, **_: Any) -> Any:
        """Refuse, in the words that CUDA has for it."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def tolist(self) -> Any:
        """Copy to the host, as every device does."""
        return self.cpu().tolist()


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the held tensors; its results are on the device unless a copy to the CPU was asked for."""
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    _refuse_mixed(func, args, kwargs, tensors, ours)
    device = kwargs.get("device")
    stays = bool(ours) if device is None else device.type == NAME
    if stays and kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    inner = {**kwargs, "device": CPU} if device is not None else kwargs
    result = func(*_held(args), **{name: _held(value) for name, value in inner.items()})
    _count(func, args, ours, result, stays)
    _refuse_float64(tensors, result)
    if torch.Tag.inplace_view in func.tags and func._schema.name not in _RESIZING:
        _reshape(func, args, kwargs)
    _refuse_resized(ours)
    wrappers = {id(tensor.held): tensor for tensor in ours}
    if func._schema.name == "aten::copy_":
        return args[0]
    return _wrapped(result, wrappers) if stays else result


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors among arguments or results, which may stand in lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _held(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.held
    return type(value)(map(_held, value)) if type(value) in {list, tuple} else value


def _wrapped(value: Any, wrappers: dict[int, PretendTensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # What an operation wrote in place is the tensor that it was given.
        return wrappers[id(value)] if id(value) in wrappers else PretendTensor(value)
    return type(value)(_wrapped(one, wrappers) for one in value) if type(value) in {list, tuple} else value


def _refuse_mixed(func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], ours: list[PretendTensor]) -> None:
    """Raise where CUDA would: only single numbers, copies and indices may come from the CPU, and never be written."""
    name = func._schema.name
    theirs = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    if not ours or not theirs or name in _COPIES:
        return
    if name in _INDEXING and isinstance(args[0], PretendTensor):
        theirs = [tensor for tensor in _tensors(args[2:]) if not isinstance(tensor, PretendTensor)]
    written = [value for value in _written(func, args, kwargs) if isinstance(value, torch.Tensor)]
    too_many = [tensor for tensor in theirs if tensor.ndim or name in _JOINING]
    if too_many or not all(isinstance(value, PretendTensor) for value in written):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two, {DEVICE} and cpu, in {name}"
        )


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments that an operation writes."""
    named = zip(func._schema.arguments, args, strict=False)
    given = [(argument, value) for argument, value in named]
    given += [(argument, kwargs[argument.name]) for argument in func._schema.arguments if argument.name in kwargs]
    return [value for argument, value in given if argument.alias_info is not None and argument.alias_info.is_write]


def _count(func: Any, args: tuple[Any, ...], ours: list[PretendTensor], result: Any, stays: bool) -> None:
    """Add to what is watched: copies over the border, and values that a Python number is made of."""
    to_host = to_device = 0
    if func._schema.name == "aten::copy_" and isinstance(args[0], PretendTensor) != isinstance(args[1], PretendTensor):
        size = args[1].numel() * args[0].element_size()
        to_host, to_device = (0, size) if isinstance(args[0], PretendTensor) else (size, 0)
    elif ours and isinstance(result, torch.Tensor) and not stays:
        to_host = result.nbytes
    elif ours and isinstance(result, (bool, int, float)):
        to_host = ours[0].element_size()
    waits = bool(to_host) or func._schema.name in _COUNTING or _by_mask(func, args)
    for seen in _STATE.watching:
        seen.to_host += to_host
        seen.to_device += to_device
        seen.waits += waits


def _by_mask(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a mask on the device is counted to become an index."""
    indices = args[1] if func._schema.name in _INDEXING and isinstance(args[0], PretendTensor) else ()
    return any(isinstance(one, PretendTensor) and one.dtype == torch.bool for one in indices)


def _refuse_float64(tensors: list[torch.Tensor], result: Any) -> None:
    if _STATE.has_float64:
        return
    found = _tensors([result])
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    if any(tensor.dtype == torch.float64 for tensor in (*ours, *found)):
        raise TypeError("Cannot convert a pretend tensor to float64: the device has none. Use float32 instead.")


def _reshape(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Do to the shape of a tensor in place what was done to that of the held one."""
    with torch._C._DisableTorchDispatch():
        func(*args, **kwargs)


def _refuse_resized(ours: list[PretendTensor]) -> None:
    if any(tensor.size() != tensor.held.size() for tensor in ours):
        raise NotImplementedError("the pretended device cannot follow a tensor that is resized in place")


def _factory(name: str) -> Callable[..., PretendTensor]:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return lambda *args, **kwargs: _run(func, args, kwargs)


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return _run(torch.ops.aten.copy_.default, (target, source), {})


def _register() -> Iterator[torch.library.Library]:
    """Register whatever makes a tensor on the device from none: it has no class yet that could take the call."""
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    yield fallback
    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("copy_", _copy, "PrivateUse1")
    for name in _FACTORIES:
        kernels.impl(name, _factory(name), "PrivateUse1")
    yield kernels


# Registered for as long as these live.
_LIBRARIES = list(_register()) if STANDS_IN else []
