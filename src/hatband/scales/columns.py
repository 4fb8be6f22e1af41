"""What a learned scale looks at: the chosen columns of rows, one output at a time."""

from collections.abc import Iterator

import numpy as np

from hatband.arrays.typing import Array
from hatband.checks import check_in
from hatband.fitted.rows import Rows

COLUMNS = ("leverage", "prediction", "inputs")
# Within float32, which trees compute in; a leverage may be 0 or infinite.
SMALLEST, LARGEST = 1e-30, 1e30


def check_columns(columns: tuple[str, ...]) -> None:
    """Raise unless every column is one that rows have, and there is one."""
    if not columns:
        raise ValueError(f"columns must name at least one of {list(COLUMNS)}; got {columns!r}.")
    for column in columns:
        check_in(column, COLUMNS, "columns")


def design(rows: Rows, columns: tuple[str, ...]) -> Array:
    """Return the columns of rows with one output as numbers (m, k): leverage by its logarithm, NaN only in inputs."""
    parts = {
        "leverage": lambda: np.log(np.clip(rows.leverage, SMALLEST, LARGEST)).reshape(len(rows), 1),
        "prediction": lambda: rows.prediction,
        "inputs": lambda: rows.inputs,
    }
    return np.clip(np.hstack([parts[column]() for column in columns]), -LARGEST, LARGEST)


def outputs(rows: Rows, n_outputs: int) -> Iterator[Rows]:
    """Yield the rows as each output sees them: its own prediction (m, 1) and leverage (m,)."""
    for j in range(n_outputs):
        yield rows.of_output(j)
