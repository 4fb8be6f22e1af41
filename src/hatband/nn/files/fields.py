"""Saved objects as tables of named fields: how each is written, and the type and limits with which it is read."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from hatband.arrays.backend import on_host
from hatband.checks import check_finite, check_in

# The largest whole number, and the longest text and list, that a file may hold.
LARGEST, _LONGEST_TEXT, LONGEST = 2**63 - 1, 1_000, 10_000


def _itself(value: Any, where: str = "") -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of value in a document.

    Parameters
    ----------
    json : tuple of types
        What it is in JSON.
    decode : callable(value, where) -> value
        Returns the object for a JSON value of these types; ValueError beyond its limits.
    python : tuple of types, optional
        What it is in Python; by default as in JSON.
    encode : callable(value) -> value
        Returns it as JSON.
    """

    json: tuple[type, ...]
    decode: Callable[[Any, str], Any] = _itself
    python: tuple[type, ...] = ()
    encode: Callable[[Any], Any] = _itself

    def takes(self, value: Any) -> bool:
        """Whether a Python value is of this kind."""
        return isinstance(value, self.python or self.json)

    def written(self, value: Any) -> Any:
        """Return a value as JSON; ValueError if loading it would have to execute code."""
        value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
        if not self.takes(value):
            raise ValueError(
                f"save writes numbers, strings and lists of these; a parameter is {type(value).__name__}, which would "
                "have to be loaded as code. Pickle the model instead."
            )
        return self.encode(value)

    def read(self, value: Any, where: str) -> Any:
        """Return the object for a value of a document; ValueError if its type is wrong or it is outside its limits."""
        # True is an int in Python, but not in a file.
        if type(value) not in self.json:
            raise ValueError(f"{where} must be {' or '.join(t.__name__ for t in self.json)}; got {_shown(value)}.")
        return self.decode(value, where)


def _limited(least: float, most: float, what: str) -> Callable[[Any, str], Any]:
    def decode(value: Any, where: str) -> Any:
        # Exact for whole numbers, however long, and false for NaN.
        if not least <= value <= most:
            raise ValueError(f"{where} must be {what} from {least} to {most}; got {_shown(value)}.")
        return value

    return decode


def whole(least: int = 0, most: int = LARGEST) -> Kind:
    """Return the kind of whole numbers between limits."""
    return Kind((int,), _limited(least, most, "int"))


def real(least: float = -sys.float_info.max, most: float = sys.float_info.max) -> Kind:
    """Return the kind of finite numbers between limits."""
    return Kind((int, float), _limited(least, most, "finite,"))


def text(*allowed: str) -> Kind:
    """Return the kind of strings: those allowed, or any of up to 1,000 characters."""

    def decode(value: str, where: str) -> str:
        check_in(value, allowed or (value,), where)
        if len(value) > _LONGEST_TEXT:
            raise ValueError(f"{where} must have at most {_LONGEST_TEXT} characters; got {len(value)}.")
        return value

    return Kind((str,), decode)


def several(kind: Kind, most: int = LONGEST) -> Kind:
    """Return the kind of lists of up to so many values of a kind."""

    def decode(values: list[Any], where: str) -> list[Any]:
        if len(values) > most:
            raise ValueError(f"{where} must hold at most {most} entries; got {len(values)}.")
        return [kind.read(value, where) for value in values]

    return Kind((list,), decode, (list, tuple), lambda values: [kind.written(value) for value in values])


def either(*kinds: Kind) -> Kind:
    """Return the kind of values of one of these kinds, the first that fits."""
    return Kind(
        tuple(one for kind in kinds for one in kind.json),
        lambda value, where: next(kind for kind in kinds if type(value) in kind.json).read(value, where),
        tuple(one for kind in kinds for one in kind.python or kind.json),
        lambda value: next(kind for kind in kinds if kind.takes(value)).written(value),
    )


def _fraction(value: Any, where: str) -> Fraction:
    check_entries(value, ["fraction"], where)
    parts = several(whole(-LARGEST)).read(value["fraction"], f"{where}: fraction")
    if len(parts) != 2 or parts[1] < 1:
        raise ValueError(f"{where}: fraction must be a numerator and a denominator >= 1; got {parts}.")
    return Fraction(*parts)


FLAG, NOTHING = Kind((bool,)), Kind((type(None),))
FRACTION = Kind(
    (dict,), _fraction, (Fraction, Decimal), lambda value: {"fraction": list(Fraction(value).as_integer_ratio())}
)


@dataclass(frozen=True)
class ArrayField:
    """A float64 tensor.

    Parameters
    ----------
    shape : tuple of str or int
        Lengths of the axes; a name stands for the same length throughout a file.
    finite : bool, default=True
        Whether all entries must be.
    optional : bool, default=False
        Whether it may be missing.
    """

    shape: tuple[str | int, ...]
    finite: bool = True
    optional: bool = False

    def read(self, tensors: dict[str, torch.Tensor], name: str, sizes: dict[str, int]) -> Any:
        """Remove the array from the tensors and return it; ValueError unless it is as declared."""
        if name not in tensors:
            if self.optional:
                return None
            raise ValueError(f"the file must hold the tensor {name!r}; it does not.")
        tensor = tensors.pop(name)
        shape, expected = tuple(tensor.shape), self.shape
        if len(shape) == len(expected):
            pairs = zip(expected, shape, strict=True)
            expected = tuple(sizes.setdefault(e, length) if isinstance(e, str) else e for e, length in pairs)
        if shape != expected or tensor.dtype != torch.float64:
            listed = ", ".join(map(str, expected))
            raise ValueError(f"{name} must be float64 of shape ({listed}); got {tensor.dtype} {shape}.")
        values = tensor.numpy()
        if self.finite:
            check_finite(values, name)
        return values


@dataclass(frozen=True)
class Fields:
    """The fields of an object: values of a document, arrays beside it, and tables within.

    Parameters
    ----------
    fields : mapping of str -> Kind, ArrayField or Fields
        By attribute, from which what stands before a dot and an underscore at the end are left out in the file.
    optional : bool, default=False
        Whether None may stand in its place.
    """

    fields: "Mapping[str, Kind | ArrayField | Fields]"
    optional: bool = False

    def _named(self) -> "Iterator[tuple[str, str, Kind | ArrayField | Fields]]":
        for attribute, field in self.fields.items():
            yield attribute.rpartition(".")[2].rstrip("_"), attribute, field

    def written(self, value: Any, tensors: dict[str, torch.Tensor], prefix: str = "") -> Any:
        """Return the document of an object, and add its arrays to the tensors; ValueError if it is not readable."""
        if value is None and self.optional:
            return None
        document = {}
        for name, attribute, field in self._named():
            found = attrgetter(attribute)(value)
            if isinstance(field, Fields):
                document[name] = field.written(found, tensors, f"{prefix}{name}.")
            elif isinstance(field, Kind):
                document[name] = field.written(found)
                field.read(document[name], name)
            elif found is not None:
                tensors[prefix + name] = torch.from_numpy(np.array(on_host(found), dtype=np.float64))
        return document

    def read(self, document: Any, tensors: dict[str, torch.Tensor], where: str) -> dict[str, Any]:
        """Return name -> value; ValueError unless the entries and tensors are exactly those of the table."""
        values: dict[str, Any] = self._read(document, tensors, where, {}, "")
        if tensors:
            raise ValueError(f"{where} holds tensors that do not belong there: {sorted(tensors)}.")
        return values

    def _read(
        self, document: Any, tensors: dict[str, torch.Tensor], where: str, sizes: dict[str, int], prefix: str
    ) -> Any:
        if document is None and self.optional:
            return None
        check_entries(document, [name for name, _, field in self._named() if not isinstance(field, ArrayField)], where)
        values: dict[str, Any] = {}
        for name, _, field in self._named():
            key = prefix + name
            if isinstance(field, ArrayField):
                values[name] = field.read(tensors, key, sizes)
            elif isinstance(field, Fields):
                values[name] = field._read(document[name], tensors, f"{where}: {name}", sizes, f"{key}.")
            else:
                values[name] = field.read(document[name], f"{where}: {name}")
                # A whole number is a length that arrays may be declared with.
                if isinstance(values[name], int):
                    sizes[name] = values[name]
        return values


def check_entries(document: Any, names: list[str], where: str) -> None:
    """Raise unless a document is an object with exactly these entries."""
    if not isinstance(document, dict) or set(document) != set(names):
        seen = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"{where} must have the entries {sorted(names)}; got {seen}.")


@contextmanager
def rebuilding(what: str) -> Iterator[None]:
    """Raise ValueError if an object cannot be made of the values in a file, for any error of the object itself."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{what} must be possible to build from the values in the file; it failed with {type(error).__name__}: "
            f"{error}."
        ) from error


def _shown(value: Any) -> str:
    """Return a value for a message, shortened if it is long."""
    if type(value) is int and abs(value) > LARGEST:
        return "a number beyond 2**63"
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
