"""The types that all commands share: error, request, table and answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hatband.arrays.typing import Array


class CommandError(Exception):
    """A command cannot do what was asked; its message is the one line that the user reads."""


@dataclass(frozen=True)
class IntervalsRequest:
    """The settings of one call from the command line."""

    train: Path
    new: Path
    target: str
    output: Path
    levels: tuple[float, ...] = (0.9,)
    estimator: str = "ridge"
    scale: str = "auto"
    calibration_size: float | int = 0.25
    index: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Table:
    """A file as features for the model, with targets if the file has them."""

    path: Path
    features: Any
    target: Array | None
    dropped: int = 0
    unused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Answer:
    """A calibrated model with its predictions for the new rows."""

    model: Any
    prediction: Array  # (m,)
    interval: Array  # (m, 2, levels)
    leverage: Array  # (m,)
    notes: tuple[str, ...] = ()
