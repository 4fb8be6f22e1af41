"""Ranks and levels against exact rational arithmetic."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from hatband.formulas.order_statistics import exact_level, lower_rank, minimum_calibration_size, upper_rank

THOUSANDTHS = range(500, 1000)

# How a level of k / 1000 may arrive; the second of each pair is the miscoverage of the same level.
FORMS = {
    "decimal": (lambda k: k / 1000, lambda k: (1000 - k) / 1000),
    "subtracted": (lambda k: 1 - (1000 - k) / 1000, lambda k: 1 - k / 1000),
    "float64": (lambda k: np.float64(k / 1000), lambda k: np.float64(1) - np.float64(k / 1000)),
    "float32": (lambda k: np.float32(k / 1000), lambda k: np.float32((1000 - k) / 1000)),
    "float32 subtracted": (
        lambda k: np.float32(1) - np.float32((1000 - k) / 1000),
        lambda k: np.float32(1) - np.float32(k / 1000),
    ),
    "longdouble": (lambda k: np.longdouble(k) / 1000, lambda k: 1 - np.longdouble(k) / 1000),
    "Fraction": (lambda k: Fraction(k, 1000), lambda k: 1 - Fraction(k, 1000)),
    "Decimal": (lambda k: Decimal(k) / 1000, lambda k: 1 - Decimal(k) / 1000),
}


@pytest.mark.parametrize("form", FORMS)
def test_level_is_the_fraction_that_was_meant(form):
    as_level, as_miscoverage = FORMS[form]

    for k in THOUSANDTHS:
        assert exact_level(as_level(k)) == Fraction(k, 1000)
        assert exact_level(as_miscoverage(k)) == Fraction(1000 - k, 1000)


@pytest.mark.parametrize("level", [1 / 3, 2 / 3, 0.6827, 0.9973, 0.123456789])
def test_level_with_an_everyday_denominator_is_that_fraction(level):
    assert exact_level(level) == Fraction(repr(level)).limit_denominator(10**9)


@given(st.floats(2.0**-60, 1 - 2.0**-53))
def test_level_is_never_moved_by_more_than_rounding(level):
    assert abs(exact_level(level) - Fraction(level)) <= Fraction(4, 2**53)
    assert 0 < exact_level(level) < 1


@pytest.mark.parametrize(
    "level", [0.0, 1.0, -0.1, 1.5, 90.0, float("nan"), np.float32(1), Fraction(1), Decimal(0), Decimal("nan")]
)
def test_level_outside_zero_and_one_is_refused_with_the_value_seen(level):
    with pytest.raises(ValueError, match="strictly between 0 and 1") as caught:
        exact_level(level)

    assert repr(level) in str(caught.value)


def test_ranks_equal_integer_arithmetic_on_the_grid_of_sizes_and_levels():
    # Every size and level of the grid: benchmarks/order_statistics.py.
    for k in THOUSANDTHS:
        level = exact_level(k / 1000)
        sizes = range(k % 19, 2001, 19)

        assert [upper_rank(n, level) for n in sizes] == [-(-(n + 1) * k // 1000) for n in sizes]


@pytest.mark.parametrize("n", [0, 1, 9, 19, 29, 69, 99, 124, 249, 999, 1999])
@pytest.mark.parametrize("form", FORMS)
def test_ranks_are_exact_in_whatever_form_the_level_arrives(form, n):
    as_level, _ = FORMS[form]

    for k in THOUSANDTHS:
        assert upper_rank(n, as_level(k)) == oracles.exact_upper_rank(n, Fraction(k, 1000))
        assert lower_rank(n, as_level(k)) == oracles.exact_lower_rank(n, Fraction(k, 1000))


@given(st.integers(0, 10**6), st.fractions(0, 1, max_denominator=10**6).filter(lambda p: 0 < p < 1))
def test_upper_and_lower_ranks_mirror_each_other(n, level):
    assert upper_rank(n, level) + lower_rank(n, level) == n + 1
    assert Fraction(upper_rank(n, level), n + 1) >= level > Fraction(upper_rank(n, level) - 1, n + 1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_minimum_calibration_size_is_the_first_with_finite_ranks(symmetric):
    for k in THOUSANDTHS:
        level = Fraction(k, 1000)
        side = level if symmetric else (1 + level) / 2
        n = minimum_calibration_size(k / 1000, symmetric)

        assert oracles.exact_upper_rank(n, side) <= n
        assert oracles.exact_lower_rank(n, side) >= 1
        assert oracles.exact_upper_rank(n - 1, side) == n


@pytest.mark.parametrize(("level", "size"), [(0.5, 1), (0.9, 9), (0.95, 19), (1 - 0.01, 99), (0.999, 999)])
def test_minimum_calibration_size_by_hand(level, size):
    assert minimum_calibration_size(level) == size
    assert minimum_calibration_size(level, symmetric=False) == 2 * size + 1
