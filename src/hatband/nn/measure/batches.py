"""Loaders and arrays as batches of tensors on the device of a module."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn

from hatband.arrays.backend import is_sparse
from hatband.arrays.typing import Array
from hatband.checks import check_finite, check_target

NO_ROWS = "there must be at least one row; the loader yielded none."
# Rows of an array that go through the module at once.
BATCH_ROWS = 1_024


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches (inputs, target or None), readable as often as their source is.

    Parameters
    ----------
    source : iterable
        Of (inputs, target) pairs, (inputs,) or inputs; the target is left out where it is not wanted.
    """

    source: Iterable[Any]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.source:
            inputs, target = _split(batch)
            # A batch from which a loader has dropped every row.
            if n_rows(inputs):
                yield inputs, target


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Slices of an array, `BATCH_ROWS` at a time.

    Parameters
    ----------
    X : tensor or array with n rows
        Inputs.
    y : array (n,) or (n, q), or None
        Targets.
    """

    X: Any
    y: Array | None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.X), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            yield self.X[part], None if self.y is None else self.y[part]


def as_batches(data: Any, y: Any = None) -> Batches | ArrayBatches:
    """Return batches of a loader, of an array X, of X and y, or of a pair (X, y).

    Raises
    ------
    ValueError
        If y has another length than X, holds NaN, is passed with a loader, or the loader can be read only once.
    TypeError
        If the data are not one of these.
    """
    if y is None and _is_pair(data):
        data, y = data
    if _is_array(data):
        return _array_batches(data, y)
    _refuse_rows_apart(data)
    if isinstance(data, Mapping):
        raise TypeError(
            "inputs of several parts must come in batches, as a DataLoader yields them: pass [(inputs, y)] instead of "
            f"one {type(data).__name__}."
        )
    if y is not None:
        raise ValueError("pass y only with an array X; a loader yields its own targets as batches (inputs, y).")
    if not isinstance(data, Iterable):
        raise TypeError(
            f"data must be a DataLoader, an array X, or a pair (X, y); got {type(data).__name__}. Put a Dataset into a "
            "DataLoader."
        )
    if iter(data) is data:
        raise ValueError(
            "data must be readable more than once, as a DataLoader or a list of batches is; got an iterator "
            f"({type(data).__name__})."
        )
    return Batches(data)


def inputs_of(data: Any) -> Any:
    """Return X of a pair (X, y), and other data unchanged."""
    return data[0] if _is_pair(data) else data


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") or hasattr(data, "iloc")


def _is_pair(data: Any) -> bool:
    """Whether data are rows and their targets, an array or a list."""
    if not (isinstance(data, tuple) and len(data) == 2 and _is_array(data[0])):
        return False
    return _is_array(data[1]) or _holds_numbers(data[1])


def _holds_numbers(data: Any) -> bool:
    """Whether a list holds numbers, or rows of numbers, rather than batches."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return isinstance(data, Real)


def _refuse_rows_apart(data: Any) -> None:
    """Raise if a list or tuple would be read as batches but is not a sequence of batches."""
    if isinstance(data, (list, tuple)) and _holds_numbers(data):
        raise TypeError(
            f"X must be an array or a tensor; got a {type(data).__name__} of numbers, and lists are read as batches. "
            "Pass np.asarray(X)."
        )
    if isinstance(data, tuple) and len(data) > 2 and all(_is_array(part) for part in data):
        raise TypeError(
            f"rows with their targets must be a pair (X, y); got {len(data)} arrays. Batches without targets come in a "
            "list or a DataLoader."
        )


def _array_batches(X: Any, y: Any) -> ArrayBatches:
    values = X if isinstance(X, torch.Tensor) else numbers(X)
    if not values.ndim or not len(values):
        raise ValueError(f"X must hold at least one row; got shape {tuple(values.shape)}.")
    if y is None:
        return ArrayBatches(values, None)
    target = np.asarray(as_array(y))
    check_target(target)
    if len(target) != len(values):
        raise ValueError(f"y must have one entry per row of X, {len(values)}; got {len(target)}.")
    return ArrayBatches(values, target)


def numbers(X: Any) -> Array:
    """Return an array of numbers in its own precision; objects and strings become float64."""
    if is_sparse(X):
        raise ValueError("X must be dense for a network; got a sparse matrix. Pass X.toarray().")
    values = np.asarray(X)
    if values.dtype.kind not in "OUS":
        return values
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"X must hold numbers; got {type(X).__name__} of {values.dtype}, {error}. Encode categories as numbers; "
            "if X is a loader, leave y out: the loader yields the targets."
        ) from None


def _split(batch: Any) -> tuple[Any, Any]:
    """Return inputs and target of a batch."""
    if not isinstance(batch, (tuple, list)):
        return batch, None
    if len(batch) == 1:
        return batch[0], None
    if len(batch) == 2:
        return batch[0], batch[1]
    raise ValueError(
        f"a batch must be inputs or a pair (inputs, y); got {len(batch)} parts. Collate several inputs of the module "
        "as a tuple or a dict: ((x1, x2), y)."
    )


def as_array(values: Any) -> Any:
    """Return a tensor as an array, bfloat16 as float32, which NumPy has; return everything else unchanged."""
    if not isinstance(values, torch.Tensor):
        return values
    host = values.detach().cpu()
    return (host.float() if host.dtype == torch.bfloat16 else host).numpy()


def n_rows(inputs: Any) -> int:
    """Return the number of rows in nested inputs; an object that is not an array counts as one row."""
    while isinstance(inputs, (Mapping, tuple, list)):
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs), None)
    return len(inputs) if np.ndim(inputs) else 1


def placed(inputs: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """Return nested inputs on a device, floating-point numbers in the dtype, or in their own if it is None."""
    if isinstance(inputs, Mapping):
        return {key: placed(value, device, dtype) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(placed(value, device, dtype) for value in inputs)
    tensor = as_tensor(inputs)
    return moved(tensor, device, dtype) if dtype is not None and tensor.is_floating_point() else tensor.to(device)


def as_tensor(values: Any) -> torch.Tensor:
    """Return a tensor unchanged, and an array as a tensor on the host, for any default device of torch."""
    if isinstance(values, torch.Tensor):
        return values
    array = numbers(values)
    # torch takes no reversed rows and no foreign bytes, and warns of memory that it may not write to, as of a table.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def moved(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor on a device in a type; convert on the side that transfers fewer bytes and has float64."""
    if dtype.itemsize > tensor.dtype.itemsize:
        return tensor.to(device).to(dtype)
    return tensor.to(dtype).to(device)


def wide_on_host(tensor: torch.Tensor) -> Array:
    """Return a tensor as a float64 array."""
    return moved(tensor.detach(), torch.device("cpu"), torch.float64).numpy()


def home(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return device and floating-point type of the first such parameter or buffer of a module."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def each(inputs: Any, verb: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply a function to every tensor of nested inputs."""
    if isinstance(inputs, Mapping):
        return {key: each(value, verb) for key, value in inputs.items()}
    return tuple(each(value, verb) for value in inputs) if isinstance(inputs, tuple) else verb(inputs)


def called(module: nn.Module, inputs: Any) -> Any:
    """Return the output of a module for a tensor, a tuple of arguments or a dict of keywords; inputs never change."""
    # A module may write into its input, which is often memory of the caller's, and read more than once.
    inputs = each(inputs, torch.Tensor.clone)
    try:
        if isinstance(inputs, Mapping):
            return module(**inputs)
        return module(*inputs) if isinstance(inputs, tuple) else module(inputs)
    except RuntimeError as error:
        if isinstance(inputs, torch.Tensor) and not inputs.is_floating_point():
            error.add_note(
                f"The inputs reached the module as {inputs.dtype}: whole numbers are not converted, because "
                "embeddings need them. If the module needs floating-point numbers, pass X.astype(float) or X.float()."
            )
        raise


def targets(y: Any, count: int) -> Array:
    """Return targets of a batch as float64, with their axes unchanged."""
    check_real(y)
    values = wide_on_host(y) if isinstance(y, torch.Tensor) else np.require(y, np.float64, ["C", "W"])
    if values.ndim not in {1, 2} or len(values) != count:
        raise ValueError(
            f"y must have one entry per row of its batch, shape ({count},) or ({count}, outputs); got shape "
            f"{values.shape}."
        )
    return values


def check_real(y: Any) -> None:
    """Raise if targets are complex: a cast would drop the imaginary part."""
    if y.is_complex() if isinstance(y, torch.Tensor) else np.iscomplexobj(y):
        raise ValueError("y must hold real numbers; got complex ones. Pass y.real and y.imag as two columns.")


def check_finite_from(values: torch.Tensor, name: str, start: int) -> None:
    """Raise unless a block of rows is finite; `start` is the number of its first row."""
    finite = torch.isfinite(values.reshape(len(values), -1)).all(dim=1)
    if not bool(finite.all()):
        row = start + int((~finite).nonzero()[0])
        marks = np.zeros(row + 1)
        marks[row] = np.nan
        check_finite(marks, name)
