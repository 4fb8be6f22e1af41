"""Tables as files: read whole, written whole or not at all. pandas is loaded only when a table is touched."""

import os
from pathlib import Path
from typing import Any

from hatband.commands.base import CommandError

CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip")
PARQUET_SUFFIXES = (".parquet", ".pq")


def require_pandas() -> Any:
    """Return pandas, or say how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise CommandError('reading and writing tables needs pandas: pip install "hatband[cli]"') from error
    return pandas


def is_parquet(path: Path) -> bool:
    """Whether the name says Parquet; a name that says neither Parquet nor CSV is refused."""
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
    """One column whose name holds separators is a whole header read as one name."""
    (name, *others) = frame.columns
    found = [separator for separator in (";", "\t", "|") if separator in name]
    if found and not others:
        raise CommandError(f"{path} seems to have its columns separated by {found[0]!r}; commas are required")


def _with_index(frame: Any, path: Path, index: str | None) -> Any:
    """Move the column that names the rows into the index: `index`, else the nameless first one that pandas writes."""
    if index is None:
        nameless = len(frame.columns) > 0 and frame.columns[0] == "Unnamed: 0"
        return frame.set_index("Unnamed: 0").rename_axis(None) if nameless else frame
    if index in frame.columns:
        return frame.set_index(index)
    if index in frame.index.names:
        return frame
    raise CommandError(f"{path} has no column {index!r} for --index; it has {quoted(frame.columns)}")


def check_output(output: Path, inputs: tuple[Path, ...]) -> None:
    """Refuse an output that could not be written, or that would overwrite an input, before any work is done."""
    is_parquet(output)
    if not output.parent.is_dir():
        raise CommandError(f"cannot write {output}: there is no folder {output.parent}")
    if output.is_dir():
        raise CommandError(f"cannot write {output}: it is a folder")
    if output.exists() and any(path.exists() and path.samefile(output) for path in inputs):
        raise CommandError(f"{output} is also an input; give --output another name")


def write_table(frame: Any, output: Path) -> None:
    """Write beside the target, then move into place: a reader finds the old file or the whole new one."""
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
    """Whether an index says more than the row number."""
    return any(name is not None for name in index.names) or list(index) != list(range(len(index)))


def quoted(names: Any, limit: int = 8) -> str:
    """'a', 'b' and 3 more."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def first_line(error: BaseException | str) -> str:
    """Return the first line of what an error or a warning says."""
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or str(error) or type(error).__name__).strip().splitlines()[0]
