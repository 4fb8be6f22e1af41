"""Files of tensors and JSON, which never execute code, and folders of them: read only if the checksums match."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hatband.nn.files.fields import Fields, several, text, whole
from hatband.nn.measure.state import tensor_bytes

VERSION = 1
_CONTENT, _CHECKSUM = "hatband", "sha256"
_INDEX = "index.safetensors"
# What the index of a folder holds besides the fields of its model.
_FILES = {"version": whole(VERSION, VERSION), "files": several(text())}


def write_archive(path: str | Path, tensors: Mapping[str, torch.Tensor], content: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document into one safetensors file.

    Parameters
    ----------
    path : str or Path
        The file; an existing one is replaced.
    tensors : mapping of name -> tensor
        On any device; tensors that share memory are written separately.
    content : mapping
        Any JSON values, without NaN and infinity.
    """
    place = Path(path)
    if place.is_dir() or not place.parent.is_dir():
        raise FileNotFoundError(f"path must be a file in an existing folder; got {str(path)!r}.")
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
        If the file is not an archive of hatband, or its checksum does not match.
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
        raise ValueError(f"{str(path)!r} must be a file that hatband saved; it was written by another program.")
    if metadata[_CHECKSUM] != _digest(tensors, metadata[_CONTENT]):
        raise ValueError(f"{str(path)!r} was damaged or changed after it was saved: its checksum does not hold.")
    try:
        content = json.loads(metadata[_CONTENT])
    # Brackets nested thousands deep, and numbers of thousands of digits, too.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} must hold a JSON document; it cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object; got {type(content).__name__}.")
    if content.get("version") != VERSION:
        raise ValueError(f"{str(path)!r} must have format version {VERSION}; got {content.get('version')!r}.")
    return tensors, content


def write_folder(
    folder: str | Path,
    parts: Sequence[Callable[[Path], None]],
    part_name: str,
    fields: Mapping[str, Any],
    index: Any,
) -> None:
    """Write parts, then the index with their checksums.

    Parameters
    ----------
    folder : str or Path
        Made when it is missing.
    parts : sequence of callable(path)
        Each writes one file.
    part_name : str
        Name of their files, with {} for their number.
    fields : mapping
        The table of the index.
    index : object
        What they are written of.
    """
    place = Path(folder)
    tensors: dict[str, torch.Tensor] = {}
    content = Fields(fields).written(index, tensors)
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / part_name.format(number) for number in range(len(parts))]
    for path, write in zip(paths, parts, strict=True):
        write(path)
    files = [_file_digest(path) for path in paths]
    write_archive(place / _INDEX, tensors, {**content, "version": VERSION, "files": files})


def read_folder(folder: str | Path, part_name: str, fields: Mapping[str, Any]) -> tuple[list[Path], dict[str, Any]]:
    """Return the paths of the parts, after checking that they are unchanged, and the values of the index.

    Raises
    ------
    FileNotFoundError
        If there is no index, or a part is missing.
    ValueError
        If the index does not hold the fields of the table, or a part was changed.
    """
    place = Path(folder)
    tensors, content = read_archive(place / _INDEX)
    index = Fields({**_FILES, **fields}).read(content, tensors, "the index")
    paths = [place / part_name.format(number) for number in range(len(index["files"]))]
    for path, digest in zip(paths, index["files"], strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}, which the index of its folder lists.")
        if _file_digest(path) != digest:
            raise ValueError(f"{str(path)!r} was damaged or changed after it was saved: its checksum does not hold.")
    return paths, index


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """Return the SHA-256 sum of names, types, shapes, values and document."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor_bytes(tensor).numpy().data)
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError("saving needs safetensors; install it with: pip install 'hatband[torch]'.") from error
    return safetensors
