"""Tables in files, and the role of each column for a model: a number, a text of few levels, or unused.

Files are read whole, and written whole or not at all. pandas is loaded only when a table is touched.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hatband.arrays.typing import Array
from hatband.commands.base import CommandError

CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip")
PARQUET_SUFFIXES = (".parquet", ".pq")
MISSING_TEXT = "(missing)"


def require_pandas() -> Any:
    """Return pandas; if it is missing, raise an error that says how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise CommandError('reading and writing tables needs pandas: pip install "hatband[cli]"') from error
    return pandas


def is_parquet(path: Path) -> bool:
    """Whether the name ends as a Parquet file; a name that ends neither as Parquet nor as CSV is an error."""
    name = path.name.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return True
    if name.endswith(CSV_SUFFIXES):
        return False
    raise CommandError(f"{path} must end in one of {', '.join(CSV_SUFFIXES + PARQUET_SUFFIXES)}")


def read_table(path: Path, index: str | None = None) -> Any:
    """Return a DataFrame with at least one row; every column of a CSV file is text until a model needs numbers."""
    pandas = require_pandas()
    try:
        # Text keeps row names such as 007, and a column reads the same in both files.
        frame = pandas.read_parquet(path) if is_parquet(path) else pandas.read_csv(path, dtype=str)
    except ImportError as error:
        raise CommandError(f"reading {path} needs pyarrow: pip install pyarrow, or give a CSV file") from error
    except pandas.errors.EmptyDataError as error:
        raise CommandError(f"{path} is empty") from error
    except (OSError, ValueError, EOFError) as error:
        raise CommandError(f"cannot read {path}: {first_line(error)}") from error
    if len(frame) == 0:
        raise CommandError(f"{path} has no rows below its header")
    frame.columns = [str(column) for column in frame.columns]
    _refuse_other_separators(frame, path)
    return _with_index(frame, path, index)


def _refuse_other_separators(frame: Any, path: Path) -> None:
    """Raise if the only column has separators in its name: then the whole header was read as one name."""
    (name, *others) = frame.columns
    found = [separator for separator in (";", "\t", "|") if separator in name]
    if found and not others:
        raise CommandError(f"{path} seems to have its columns separated by {found[0]!r}; commas are required")


def _with_index(frame: Any, path: Path, index: str | None) -> Any:
    """Move the column that names the rows into the index: `index`, else the unnamed first column that pandas writes."""
    if index is None:
        nameless = len(frame.columns) > 0 and frame.columns[0] == "Unnamed: 0"
        return frame.set_index("Unnamed: 0").rename_axis(None) if nameless else frame
    if index in frame.columns:
        return frame.set_index(index)
    if index in frame.index.names:
        return frame
    raise CommandError(f"{path} has no column {index!r} for --index; it has {quoted(frame.columns)}")


def check_output(output: Path, inputs: tuple[Path, ...]) -> None:
    """Before any work, raise if the output cannot be written or would overwrite an input."""
    is_parquet(output)
    if not output.parent.is_dir():
        raise CommandError(f"cannot write {output}: there is no folder {output.parent}")
    if output.is_dir():
        raise CommandError(f"cannot write {output}: it is a folder")
    if output.exists() and any(path.exists() and path.samefile(output) for path in inputs):
        raise CommandError(f"{output} is also an input; give --output another name")


def write_table(frame: Any, output: Path) -> None:
    """Write a temporary file, then rename it: a reader finds the old file or the complete new one."""
    # The suffixes must survive: pandas chooses the compression by them.
    partial = output.with_name(f".{os.getpid()}.part.{output.name}")
    try:
        if is_parquet(output):
            frame.to_parquet(partial)
        else:
            frame.to_csv(partial, index=_names_rows(frame.index))
        os.replace(partial, output)
    except ImportError as error:
        raise CommandError(f"writing {output} needs pyarrow: pip install pyarrow, or name a CSV file") from error
    except OSError as error:
        raise CommandError(f"cannot write {output}: {first_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def _names_rows(index: Any) -> bool:
    """Whether an index is more than the row number."""
    return any(name is not None for name in index.names) or list(index) != list(range(len(index)))


def quoted(names: Any, limit: int = 8) -> str:
    """'a', 'b' and 3 more."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def first_line(error: BaseException | str) -> str:
    """Return the first line of the message of an error or a warning."""
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or str(error) or type(error).__name__).strip().splitlines()[0]


@dataclass(frozen=True)
class Columns:
    """The features of a training table: which are numbers, which are texts, and the levels of texts."""

    numbers: tuple[str, ...]
    texts: dict[str, frozenset[str]]
    empty: tuple[str, ...]

    @classmethod
    def of(cls, features: Any, path: Path) -> "Columns":
        """Determine the role of each column of a training table."""
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
    """Return a column as float64 with NaN where missing, and the position of the first entry that is not a number."""
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
    """Return a feature that held numbers in training; NaN where missing."""
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
    """Return a column as plain text; missing values are a separate level."""
    return column.astype(object).where(column.notna(), MISSING_TEXT).map(str)
