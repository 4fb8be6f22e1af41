"""Shape checking of the numerical layers, and the fixtures that every regime shares."""

from jaxtyping import install_import_hook

# Before anything imports hatband: from here on a wrong shape is an error with the function's name.
NUMERICAL_LAYERS = [
    "hatband._kernel_leverage",
    "hatband._leave_one_out",
    "hatband._leverage",
    "hatband.conformal.acceptance",
    "hatband.diagnostics.alignment",
    "hatband.diagnostics.coverage",
    "hatband.diagnostics.flatness",
    "hatband.diagnostics.slabs",
    "hatband.evidence",
    "hatband.interval_metrics",
    "hatband.linalg",
    "hatband.order_statistics",
    "hatband.posterior",
]
install_import_hook(NUMERICAL_LAYERS, "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
