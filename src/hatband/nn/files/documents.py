"""JSON documents and tensors of a file, checked entry by entry as they are taken out of it."""

from typing import Any

import torch


def check_schema(value: Any, schema: Any, where: str) -> None:
    """Raise unless a document has exactly the entries of the schema, each of its type."""
    if not isinstance(schema, dict):
        allowed = schema if isinstance(schema, tuple) else (schema,)
        # True is an int to Python, and not to a schema.
        if type(value) not in allowed:
            raise ValueError(f"{where} must be {' or '.join(t.__name__ for t in allowed)}; got {value!r}.")
        return
    if not isinstance(value, dict) or set(value) != set(schema):
        seen = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{where} must have the entries {sorted(schema)}; got {seen}.")
    for key, part in schema.items():
        check_schema(value[key], part, f"{where}: {key}")


def taken(tensors: dict[str, torch.Tensor], name: str, shape: tuple[int | None, ...]) -> Any:
    """Take an array out of the tensors; None in the shape is any length."""
    tensor = tensors.pop(name, None)
    if tensor is None:
        raise ValueError(f"the file must hold the tensor {name!r}; it does not.")
    fits = tensor.ndim == len(shape) and all(e in {None, s} for e, s in zip(shape, tensor.shape, strict=True))
    if not fits or tensor.dtype != torch.float64:
        raise ValueError(f"{name} must be float64 of shape {shape}; got {tensor.dtype} {tuple(tensor.shape)}.")
    return tensor.numpy()
