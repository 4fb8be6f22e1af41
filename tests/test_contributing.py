"""CONTRIBUTING.md: its recipes run, the files that it names exist, and a row passes few files."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import hatband
from guide import BLOCKS, GUIDE, TEXT
from hatband import SplitConformalRegressor

SOURCE = Path(hatband.__file__).parent


def test_the_recipes_run_from_top_to_bottom():
    names: dict[str, object] = {"__name__": "contributing"}
    assert len(BLOCKS) > 5
    for block in BLOCKS:
        exec(compile(block, str(GUIDE), "exec"), names)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"[\w/]+\.py\b", TEXT))))
def test_the_files_that_it_names_exist(path):
    assert any((root / path).exists() for root in (GUIDE.parent, SOURCE, SOURCE / "conformal"))


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)", TEXT, flags=re.MULTILINE))
def test_the_commands_that_it_names_exist(target):
    assert re.search(rf"^{target}:", (GUIDE.parent / "Makefile").read_text(), flags=re.MULTILINE)


def files_passed(call):
    """Our files in which a function is called meanwhile."""
    found = set()

    def note(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SOURCE):
            found.add(path.relative_to(SOURCE).as_posix())

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


def test_a_row_passes_few_files(rng):
    """With a constant scale: nine to its interval, fifteen to the threshold."""
    X = rng.standard_normal((300, 5))
    y = X[:, 0] + rng.standard_normal(300)
    model = SplitConformalRegressor(Ridge(), scale="constant", random_state=0)

    assert len(files_passed(lambda: model.fit(X, y))) <= 15
    assert len(files_passed(lambda: model.predict_interval(np.zeros((1, 5))))) <= 9
