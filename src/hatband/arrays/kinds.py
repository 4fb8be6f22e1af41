"""Which kind of array rows are: NumPy, SciPy sparse or torch, found without importing torch."""

import sys
from typing import Any

import scipy.sparse

from hatband.arrays.typing import Array


def is_sparse(rows: Any) -> bool:
    """Whether rows are a SciPy sparse matrix or array."""
    return bool(scipy.sparse.issparse(rows))


def as_rows(values: Any) -> Any:
    """Return a sparse matrix in CSR format, which can be read by rows; everything else as it is."""
    return values.tocsr() if is_sparse(values) else values


def torch() -> Any:
    """Return the package: looked up, not imported, since a tensor cannot exist before its user has imported it."""
    return sys.modules["torch"]


def is_tensor(rows: Any) -> bool:
    """Whether rows are a tensor."""
    return "torch" in sys.modules and isinstance(rows, torch().Tensor)


def has_float64(device: Any) -> bool:
    """Whether a device of torch computes in float64."""
    return device.type != "mps"


def exact_device(device: Any) -> Any:
    """Return a device of torch, or the CPU in its place where it has no float64."""
    return device if has_float64(device) else torch().device("cpu")


def on_host(values: Any) -> Any:
    """Return a tensor as a NumPy array; everything else as it is."""
    return values.detach().cpu().numpy() if is_tensor(values) else values


def tensor_like(values: Array, rows: Any) -> Array:
    """Return a tensor where the tensor `rows` is, in float64 where its device has that."""
    return values.to(rows.device) if has_float64(rows.device) else values.float().to(rows.device)
