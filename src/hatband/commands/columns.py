"""What a column of a table is to a model: a number, a text of few levels, or nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.commands.base import CommandError
from hatband.commands.tables import quoted, require_pandas

MISSING_TEXT = "(missing)"


@dataclass(frozen=True)
class Columns:
    """The features of a training table: which are numbers, which are texts and what these said."""

    numbers: tuple[str, ...]
    texts: dict[str, frozenset[str]]
    empty: tuple[str, ...]

    @classmethod
    def of(cls, features: Any, path: Path) -> "Columns":
        """Read the roles off a training table."""
        empty = tuple(name for name in features if features[name].isna().all())
        numbers = tuple(name for name in features if name not in empty and numbers_of(features[name])[1] is None)
        others = [name for name in features if name not in {*empty, *numbers}]
        if not numbers and not others:
            raise CommandError(f"{path} has no feature column with values beside the target")
        return cls(numbers, {name: frozenset(_texts_of(features[name])) for name in others}, empty)

    @property
    def names(self) -> tuple[str, ...]:
        """Features that the model uses."""
        return self.numbers + tuple(self.texts)

    def select(self, table: Any, path: Path) -> Any:
        """Return the features of a table as floats and texts, in the order of training."""
        absent = [name for name in self.names if name not in table]
        if absent:
            raise CommandError(f"{path} lacks the feature {quoted(absent)}; it has {quoted(table.columns)}")
        columns = {name: _finite_numbers(table[name], path) for name in self.numbers}
        columns |= {name: _texts_of(table[name]) for name in self.texts}
        return require_pandas().DataFrame(columns, index=table.index)

    def unseen(self, features: Any) -> dict[str, int]:
        """Count the rows whose text the training file does not hold, by column."""
        counts = {name: int((~features[name].isin(seen)).sum()) for name, seen in self.texts.items()}
        return {name: count for name, count in counts.items() if count}


def numbers_of(column: Any) -> tuple[Array, int | None]:
    """Return a column as float64 with NaN where missing, and the position of the first entry that is no number."""
    types = require_pandas().api.types
    if types.is_object_dtype(column.dtype) or types.is_string_dtype(column.dtype):
        values = require_pandas().to_numeric(column, errors="coerce")
    elif types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
        values = column
    else:  # truth values, dates, categories
        return np.full(len(column), np.nan), 0
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.isnan(numbers) & column.notna().to_numpy()
    return numbers, int(np.flatnonzero(bad)[0]) if bad.any() else None


def _finite_numbers(column: Any, path: Path) -> Array:
    """Return a feature that was a number in training; NaN where missing."""
    numbers, bad = numbers_of(column)
    if bad is not None:
        raise CommandError(
            f"column {column.name!r} holds numbers in training, but row {bad + 1} of {path} has {column.iloc[bad]!r}"
        )
    if np.isinf(numbers).any():
        raise CommandError(f"column {column.name!r} of {path} is infinite in row {int(np.isinf(numbers).argmax()) + 1}")
    return numbers


def target_of(table: Any, target: str, path: Path) -> Array:
    """Return the target as floats, NaN where it is missing."""
    if target not in table:
        raise CommandError(f"{path} has no column {target!r} for --target; it has {quoted(table.columns)}")
    numbers, bad = numbers_of(table[target])
    if bad is not None:
        value = table[target].iloc[bad]
        raise CommandError(f"the target {target!r} must hold numbers; row {bad + 1} of {path} has {value!r}")
    if np.isinf(numbers).any():
        raise CommandError(f"the target {target!r} is infinite in row {int(np.isinf(numbers).argmax()) + 1} of {path}")
    return numbers


def _texts_of(column: Any) -> Any:
    """Return a column as plain text; missing is a level of its own."""
    return column.astype(object).where(column.notna(), MISSING_TEXT).map(str)
