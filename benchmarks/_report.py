"""What every benchmark prints, writes and checks: tables, targets, and one JSON file with the environment."""

import argparse
import json
import math
import operator
import os
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the argument parser that all benchmarks share; a benchmark adds options of its own."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="reduced sizes, under a minute")
    arguments.add_argument("--check", action="store_true", help="exit with 1 and name every target that was missed")
    arguments.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER", help="where the JSON goes"
    )
    return arguments


class Report:
    """Rows of one or more tables, and the targets they were measured against.

    Rows with the same column names stand in one table; a row with other names opens the next table.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []
        self._start = time.perf_counter()

    def row(self, **columns: Any) -> None:
        """Add one row; columns print in the order given."""
        self.rows.append({key: _plain(value) for key, value in columns.items()})

    def target(self, name: str, value: float | None, limit: float, op: str = "<=") -> None:
        """Add the target `value op limit`; None says that this run could not test it, NaN misses it."""
        met = None if value is None else bool(_OPERATORS[op](value, limit))
        self.targets.append({"name": name, "value": _plain(value), "op": op, "limit": _plain(limit), "met": met})

    def print(self) -> None:
        """Print every table and every target."""
        for table in _tables(self.rows):
            print("\n".join(_aligned(table)), end="\n\n")
        for target in self.targets:
            print(_sentence(target))

    def finish(self, args: argparse.Namespace) -> int:
        """Print, write `<name>.json` into the output folder, and return the exit code."""
        self.print()
        seconds = round(time.perf_counter() - self._start, 1)
        content = {
            "benchmark": self.name,
            "quick": args.quick,
            "seconds": seconds,
            "environment": environment(),
            "targets": self.targets,
            "rows": self.rows,
        }
        args.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_strict(content), indent=1, allow_nan=False)
        (args.output / f"{self.name}.json").write_text(text + "\n")
        missed = [target for target in self.targets if target["met"] is False]
        print(f"{self.name}: {len(self.targets)} targets, {len(missed)} missed, {seconds} s")
        if not args.check:
            return 0
        for target in missed:
            print(f"{self.name} missed its target: {target['name']}")
        return 1 if missed else 0


def environment() -> dict[str, Any]:
    """Describe the machine and the libraries, without host names or paths."""
    packages = ["numpy", "scipy", "scikit-learn", "torch", "mapie", "crepes"]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "blas": _blas(),
        **{package: _version(package) for package in packages},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _blas() -> list[str]:
    """Name, version and threads of every BLAS that is loaded; empty where threadpoolctl is absent."""
    try:
        import numpy as np  # noqa: F401
        import scipy.linalg  # noqa: F401
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    loaded = [library for library in threadpool_info() if library["user_api"] == "blas"]
    names = {f"{library['internal_api']} {library['version']}, {library['num_threads']} threads" for library in loaded}
    return sorted(names)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays become Python numbers and lists."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become strings."""
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _tables(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(tuple(row), []).append(row)
    return list(tables.values())


def _aligned(table: list[dict[str, Any]]) -> list[str]:
    """Columns as a Markdown table, so that a printed table can be pasted into benchmarks/README.md."""
    names = list(table[0])
    cells = [[_cell(row[name]) for name in names] for row in table]
    widths = [max(3, *(len(line[j]) for line in [names, *cells])) for j in range(len(names))]
    numeric = [all(isinstance(row[name], (int, float, type(None))) for row in table) for name in names]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    lines = [names, rule, *cells]
    return ["| " + " | ".join(_padded(line, widths, numeric)) + " |" for line in lines]


def _padded(cells: list[str], widths: list[int], numeric: list[bool]) -> list[str]:
    columns = zip(cells, widths, numeric, strict=True)
    return [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in columns]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and value != 0 and math.isfinite(value):
        return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.6g}"
    return str(value)


def _sentence(target: dict[str, Any]) -> str:
    if target["met"] is None:
        return f"not tested  {target['name']} (target {target['op']} {_cell(target['limit'])})"
    verdict = "met   " if target["met"] else "missed"
    return f"{verdict}  {target['name']}: {_cell(target['value'])} (target {target['op']} {_cell(target['limit'])})"
