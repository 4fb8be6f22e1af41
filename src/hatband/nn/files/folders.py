"""Folders of archives that belong together: an index holds the checksum of every other file."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hatband.nn.files.archive import read_archive, write_archive
from hatband.nn.files.documents import check_schema

_INDEX, _VERSION = "index.safetensors", 1


def write_folder(
    folder: str | Path,
    parts: Sequence[Callable[[Path], None]],
    part_name: str,
    tensors: Mapping[str, torch.Tensor],
    content: Mapping[str, Any],
) -> None:
    """Write parts, then the index that tells whether they are still the same.

    Parameters
    ----------
    folder : str or Path
        Made when it is missing.
    parts : sequence of callable(path)
        Each writes one file.
    part_name : str
        Name of their files, with {} for their number.
    tensors, content : mapping
        What the index holds.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / part_name.format(number) for number in range(len(parts))]
    for path, write in zip(paths, parts, strict=True):
        write(path)
    write_archive(place / _INDEX, tensors, {**content, "version": _VERSION, "files": [_digest(path) for path in paths]})


def read_folder(
    folder: str | Path, part_name: str, schema: Mapping[str, Any]
) -> tuple[list[Path], dict[str, torch.Tensor], dict[str, Any]]:
    """Return the paths of the parts, all of them as they were written, and tensors and content of the index.

    Raises
    ------
    FileNotFoundError
        If there is no index, or a part is missing.
    ValueError
        If the index is none, its content is not of the schema, or a part is not the one that it was written for.
    """
    place = Path(folder)
    tensors, content = read_archive(place / _INDEX)
    if content.get("version") != _VERSION:
        raise ValueError(f"{str(folder)!r} must have format version {_VERSION}; got {content.get('version')!r}.")
    check_schema(content, {**schema, "version": int, "files": list}, "the index")
    paths = [place / part_name.format(number) for number in range(len(content["files"]))]
    for path, digest in zip(paths, content["files"], strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}, which the index of its folder lists.")
        if _digest(path) != digest:
            raise ValueError(f"{str(path)!r} was damaged or changed after it was saved: its checksum does not hold.")
    return paths, tensors, content


def check_nothing_left(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise if the index held tensors that nobody has taken."""
    if tensors:
        raise ValueError(f"the index holds tensors that do not belong there: {sorted(tensors)}.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
