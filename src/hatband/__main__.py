"""``python -m hatband demo`` and ``python -m hatband intervals``: reads the command line and nothing else."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hatband.commands.base import CommandError, IntervalsRequest
from hatband.commands.demo import run_demo
from hatband.commands.intervals import SCALES, run_intervals
from hatband.commands.recipes import RECIPES

FAILURE = 2


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser with error messages of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAILURE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    root = _Parser(prog="python -m hatband", description="Prediction intervals driven by leverage.")
    commands = root.add_subparsers(dest="command", required=True, metavar="demo | intervals")
    _add_demo(commands)
    _add_intervals(commands)
    return root


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    demo = commands.add_parser("demo", help="what a leverage scale does, on real data; prints a table, draws a picture")
    demo.add_argument("--splits", type=_count, default=100, help="random splits per data set (default 100)")
    demo.add_argument("--seed", type=_seed, default=0)
    demo.add_argument("-o", "--output", type=Path, default=Path("demo.png"), help="the picture (default demo.png)")


def _add_intervals(commands: "argparse._SubParsersAction[_Parser]") -> None:
    intervals = commands.add_parser(
        "intervals",
        help="train on one table, write prediction intervals for the rows of another",
        description="Train on one table (CSV or Parquet) and write prediction intervals for the rows of another.",
    )
    add = intervals.add_argument
    add("train", type=Path, help="rows with the target")
    add("new", type=Path, help="rows to predict")
    add("--target", required=True, help="column to predict")
    add("-o", "--output", type=Path, required=True, help="CSV or Parquet file to write, one row per new row, in order")
    add(
        "--confidence",
        type=_level,
        action="append",
        metavar="LEVEL",
        help="in (0, 1), default 0.9. Give it several times for several intervals: columns lower_0.8, upper_0.8, ...",
    )
    add("--estimator", choices=tuple(RECIPES), default="ridge")
    add("--scale", choices=SCALES, default="auto", help="how the width varies with the row (default auto)")
    add("--calibration-size", type=_size, default=0.25, help="share of rows, or number of rows (default 0.25)")
    add("--index", metavar="COLUMN", help="column that names the rows: not a feature, first column of the output")
    add("--seed", type=_seed, default=0, help="of the split into training and calibration rows, and of the estimator")


def _checked(text: str, convert: Callable[[str], Any], accept: Callable[[Any], bool], required: str) -> Any:
    """Return the converted text, or raise the error that argparse reports."""
    try:
        value = convert(text)
        if accept(value):
            return value
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"must be {required}; got {text}")


def _count(text: str) -> int:
    return _checked(text, int, lambda value: value >= 2, "an integer >= 2")


def _seed(text: str) -> int:
    return _checked(text, int, lambda value: 0 <= value < 2**32, "an integer from 0 to 2^32 - 1")


def _level(text: str) -> float:
    return _checked(text, float, lambda value: 0 < value < 1, "strictly between 0 and 1, such as 0.9")


def _size(text: str) -> int | float:
    convert = int if text.strip().isdigit() else float
    return _checked(
        text,
        convert,
        lambda value: value >= 1 if convert is int else 0 < value < 1,
        "a share in (0, 1) or a number of rows",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    try:
        _run(command, options)
        sys.stdout.flush()
    except CommandError as error:
        print(f"python -m hatband {command}: error: {error}", file=sys.stderr)
        return FAILURE
    except BrokenPipeError:  # the reader has left, as `head` does; nobody is there for the interpreter's last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _run(command: str, options: dict[str, Any]) -> None:
    if command == "demo":
        run_demo(**options)
    else:
        levels = tuple(dict.fromkeys(options.pop("confidence") or [0.9]))
        run_intervals(IntervalsRequest(levels=levels, **options))


if __name__ == "__main__":
    sys.exit(main())
