"""Files of tensors and JSON that nothing is executed from: written with a checksum, read only when it holds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_CONTENT, _CHECKSUM = "hatband", "sha256"


def write_archive(path: str | Path, tensors: Mapping[str, torch.Tensor], content: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document into one safetensors file.

    Parameters
    ----------
    path : str or Path
        The file; one that is there is replaced.
    tensors : mapping of name -> tensor
        On any device; those that share memory are written apart.
    content : mapping
        Whatever JSON takes, without NaN and infinity.
    """
    place = Path(path)
    if place.is_dir() or not place.parent.is_dir():
        raise FileNotFoundError(f"path must be that of a file in a folder that exists; got {str(path)!r}.")
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    _safetensors().torch.save_file(own, str(place), metadata={_CONTENT: text, _CHECKSUM: _digest(own, text)})


def read_archive(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and JSON document of a file that `write_archive` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such archive, or its checksum does not hold.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    try:
        with _safetensors().safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except _safetensors().SafetensorError as error:
        raise ValueError(f"{str(path)!r} must be a safetensors file; it cannot be read as one: {error}.") from None
    if set(metadata) != {_CONTENT, _CHECKSUM}:
        raise ValueError(f"{str(path)!r} must be a file that hatband saved; its header is that of another program.")
    if metadata[_CHECKSUM] != _digest(tensors, metadata[_CONTENT]):
        raise ValueError(f"{str(path)!r} was damaged or changed after it was saved: its checksum does not hold.")
    try:
        content = json.loads(metadata[_CONTENT])
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} must hold a JSON document; it cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object; got {type(content).__name__}.")
    return tensors, content


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """Return the SHA-256 sum of names, types, shapes, values and document."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError("saving needs safetensors; install it with: pip install 'hatband[torch]'.") from error
    return safetensors
