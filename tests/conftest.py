"""Shape checking of the numerical layers, and the fixtures that every regime shares."""

from jaxtyping import install_import_hook

# Before anything imports hatband: from here on a wrong shape is an error with the function's name.
NUMERICAL_LAYERS = [
    "hatband.formulas",
    "hatband.linalg",
    "hatband.diagnostics.alignment",
    "hatband.diagnostics.coverage",
    "hatband.diagnostics.flatness",
    "hatband.diagnostics.slabs",
]
install_import_hook(NUMERICAL_LAYERS, "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
