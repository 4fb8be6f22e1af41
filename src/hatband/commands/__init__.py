"""The commands of ``python -m hatband``: they do the work, ``__main__`` reads the command line."""

from hatband.commands.base import CommandError, IntervalsRequest
from hatband.commands.demo import run_demo
from hatband.commands.intervals import run_intervals

__all__ = ["CommandError", "IntervalsRequest", "run_demo", "run_intervals"]
