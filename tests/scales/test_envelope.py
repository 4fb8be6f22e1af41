"""Bounds of learned widths: a floor, the largest training width beyond the data, and growth where the model goes on."""

import numpy as np
import pytest

from hatband.scales.learned import Envelope, reach
from hatband.scales.learners import RELATIVE_FLOOR, smallest_width
from scales.cases import rows_of


@pytest.fixture
def envelope():
    return Envelope(floor=0.1, ceiling=5.0, reach=2.0, lowest=-1.0, highest=1.0)


def widths(envelope, leverage, prediction, raw, *, growth=True):
    rows = rows_of(np.array([leverage]), np.array([[prediction]]))
    return envelope.widths(rows, np.array([raw]), growth)[0]


class TestWidths:
    @pytest.mark.parametrize(("raw", "expected"), [(0.0, 0.1), (0.1, 0.1), (3.0, 3.0), (9.0, 5.0)])
    def test_stay_between_floor_and_ceiling_on_the_data(self, envelope, raw, expected):
        assert widths(envelope, 0.5, 0.0, raw) == expected

    @pytest.mark.parametrize("leverage", [2.0, 2.1, 1e6])
    def test_are_the_largest_training_width_from_the_reach_on(self, envelope, leverage):
        assert widths(envelope, leverage, 0.0, 0.2) == 5.0

    @pytest.mark.parametrize("prediction", [-1.01, 1.01, 1e9])
    def test_grow_with_leverage_where_the_model_extrapolates(self, envelope, prediction):
        assert widths(envelope, 11.0, prediction, 0.2) == pytest.approx(5.0 * 2.0, rel=1e-12)
        assert widths(envelope, 11.0, prediction, 0.2, growth=False) == 5.0

    def test_do_not_jump_at_the_reach_for_extrapolating_rows(self, envelope):
        assert widths(envelope, 2.0, 7.0, 5.0) == widths(envelope, 1.99, 7.0, 5.0) == 5.0

    @pytest.mark.parametrize("growth", [True, False])
    def test_are_infinite_where_leverage_is(self, envelope, growth):
        assert widths(envelope, np.inf, 0.0, 1.0, growth=growth) == np.inf


class TestTrainingRows:
    def test_give_the_bounds(self, rng):
        h, prediction = rng.exponential(size=500), rng.standard_normal((500, 1))
        width, residual = rng.exponential(size=500), rng.standard_normal(500)
        found = Envelope.of(rows_of(h, prediction), width, residual)

        assert found.ceiling == width.max()
        assert found.floor == pytest.approx(1e-3 * np.median(np.abs(residual)), rel=1e-12)
        assert (found.lowest, found.highest) == (prediction.min(), prediction.max())
        assert h.max() * (1 - 0.01) < found.reach < h.max()

    def test_have_a_ceiling_no_lower_than_the_floor(self):
        found = Envelope.of(rows_of(np.ones(10)), np.zeros(10), np.full(10, 3.0))

        assert found.ceiling == found.floor == 3e-3


@pytest.mark.parametrize(
    ("residual", "expected"),
    [([1.0, -2.0, 3.0], 2.0), ([0.0, 0.0, -6.0], 2.0), ([0.0, 0.0, 0.0], None)],
    ids=["median", "mean where half vanish", "one where all do"],
)
def test_the_floor_is_relative_to_the_residuals(residual, expected):
    assert smallest_width(np.array(residual)) == (1.0 if expected is None else RELATIVE_FLOOR * expected)


class TestReach:
    def test_lies_a_little_below_the_largest_leverage(self, rng):
        n = 200
        h = rng.exponential(size=n)

        assert reach(h) == pytest.approx(h.max() * (1 - 4 / n), rel=1e-12)

    def test_leaves_rows_like_the_training_rows_to_the_learner(self, rng):
        # One uniform input: leverage runs from 1 / n to 4 / n, and a reach 2 / n lower would take 40 % of the rows.
        n = 1_000
        x = rng.uniform(-1, 1, n)
        h = 1 / n + (x - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()

        assert (h / (1 - h) >= reach(h / (1 - h))).mean() <= 0.01

    def test_looks_at_finite_leverage_only(self):
        assert reach(np.array([1.0, np.inf, 3.0])) == reach(np.array([1.0, 3.0]))
        assert reach(np.array([np.inf])) == np.inf


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_training_rows_leave_a_reach_that_widths_can_grow_from(n):
    rows = rows_of(np.full(n, 3.0), np.zeros((n, 1)))
    found = Envelope.of(rows, np.ones(n), np.ones(n))

    assert 0 <= found.reach <= 3.0
    assert widths(found, 8.0, 5.0, 1.0) >= found.ceiling
