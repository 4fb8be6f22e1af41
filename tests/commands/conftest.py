"""Small tables with everything that real ones have: numbers, texts, gaps, row names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hatband.__main__ import main


@dataclass
class Bench:
    """A folder with train.csv and new.csv, and a way to run the command there."""

    folder: Path
    train: pd.DataFrame
    new: pd.DataFrame

    @property
    def output(self) -> Path:
        return self.folder / "out.csv"

    def run(self, *options: str, train="train.csv", new="new.csv", output="out.csv") -> int:
        paths = [str(self.folder / name) for name in (train, new)]
        return main(["intervals", *paths, "--target", "price", "-o", str(self.folder / output), *options])

    def written(self, **kwargs) -> pd.DataFrame:
        return pd.read_csv(self.output, **kwargs)

    def leftovers(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"train.csv", "new.csv", "out.csv"}


def made_table(rng: np.random.Generator, rows: int, first: int) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "id": [f"{first + row:04d}" for row in range(rows)],
            "size": rng.normal(100, 20, rows),
            "rooms": rng.integers(1, 6, rows),
            "city": rng.choice(["Bern", "Genf", "Chur"], rows),
        }
    )
    table["price"] = 3 * table["size"] + 20 * table["rooms"] + 30 * (table["city"] == "Genf") + rng.normal(0, 15, rows)
    table.loc[rng.choice(rows, rows // 8, replace=False), "size"] = np.nan
    table.loc[rng.choice(rows, rows // 8, replace=False), "city"] = None
    return table


@pytest.fixture
def bench(tmp_path, rng) -> Bench:
    train, new = made_table(rng, 100, 0), made_table(rng, 30, 100)
    train.to_csv(tmp_path / "train.csv", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    return Bench(tmp_path, train, new)
