"""Tempering: how far deviations are believed, by the residuals of rows that they were not fitted to."""

import numpy as np
import pytest

from hatband.scales.noise import Temper


def drawn(rng, n=4_000):
    deviation = np.exp(rng.normal(size=n))
    return deviation, np.abs(deviation * rng.normal(size=n))


def test_deviations_that_are_right_are_believed(rng):
    deviation, size = drawn(rng)
    temper = Temper.of(size, deviation)
    # Standard errors are about 0.012 and 0.012.
    assert abs(temper.exponent - 1) < 0.06
    np.testing.assert_allclose(temper(deviation), deviation, rtol=0.25)
    # Of normal noise it is the standard deviation itself, not the mean size; standard error 0.012.
    assert np.median(temper(deviation) / deviation) == pytest.approx(1, abs=0.06)


def test_deviations_that_say_nothing_become_a_constant(rng):
    deviation, _ = drawn(rng)
    temper = Temper.of(np.abs(rng.normal(size=len(deviation))), deviation)
    assert temper.exponent < 0.06
    np.testing.assert_allclose(temper(deviation), 1.0, rtol=0.25)


def test_deviations_that_are_too_sure_are_drawn_together(rng):
    deviation, size = drawn(rng)
    temper = Temper.of(size, deviation**2)
    assert abs(temper.exponent - 0.5) < 0.03


def test_the_exponent_is_the_best_on_a_grid(rng):
    deviation, size = drawn(rng, 30)
    temper = Temper.of(size, deviation)

    def likelihood(exponent):
        powered = deviation**exponent
        mean = np.mean(size / powered) * powered
        return -np.mean(size / mean + np.log(mean))

    assert all(likelihood(temper.exponent) >= likelihood(k) - 1e-9 for k in np.linspace(0, 1, 101))


def test_units_of_deviations_do_not_matter_and_those_of_sizes_carry_over(rng):
    deviation, size = drawn(rng, 100)
    base = Temper.of(size, deviation)(deviation)
    np.testing.assert_allclose(Temper.of(size, 1e3 * deviation)(1e3 * deviation), base, rtol=1e-5)
    np.testing.assert_allclose(Temper.of(1e3 * size, deviation)(deviation), 1e3 * base, rtol=1e-5)


def test_a_weight_of_two_counts_like_a_row_given_twice(rng):
    deviation, size = drawn(rng, 50)
    weight = np.where(np.arange(50) < 20, 2.0, 1.0)
    twice = Temper.of(np.append(size, size[:20]), np.append(deviation, deviation[:20]))
    found = Temper.of(size, deviation, weight)
    assert found.exponent == pytest.approx(twice.exponent, abs=1e-5)
    assert found.level == pytest.approx(twice.level, rel=1e-5)


def test_residuals_that_are_all_zero_leave_deviations_positive():
    assert (Temper.of(np.zeros(9), np.ones(9))(np.ones(9)) > 0).all()
