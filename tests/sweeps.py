"""How often a statistical claim draws anew: few times in `make test`, many times in `make test-slow`."""

import pytest


def sweep(few, many):
    """Run a test with `repetitions` of both counts; its bounds must be those of the count that it is given."""
    return pytest.mark.parametrize("repetitions", [few, pytest.param(many, marks=pytest.mark.slow)])
