"""The leverage display: what it stores, what it draws, what it refuses."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import binomtest

from hatband.displays import LeverageDisplay
from hatband.displays.leverage import leverage_groups

mpl.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows(rng):
    leverage = rng.exponential(0.1, 200)
    y = rng.standard_normal(200)
    half = 1.3 * np.sqrt(1 + leverage)
    return y, np.stack([-half, half], axis=1), leverage


@pytest.mark.parametrize("n_groups", [1, 2, 5, 10, 200])
def test_groups_are_equal_in_size_and_ordered_by_leverage(rng, n_groups):
    leverage = rng.permutation(np.arange(200.0))
    groups = leverage_groups(leverage, n_groups)
    assert set(np.bincount(groups)) == {200 // n_groups}
    assert (np.diff(groups[np.argsort(leverage)]) >= 0).all()


def test_equal_leverages_share_a_group_and_infinite_ones_are_the_last():
    groups = leverage_groups(np.array([0.1] * 5 + [0.2, np.inf, np.inf]), 4)
    assert len(set(groups[:5])) == 1
    assert (groups[-2:] == groups.max()).all()


def test_coverage_of_each_bin_is_a_count_with_exact_binomial_bars(rows):
    y, interval, leverage = rows
    display = LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.8, n_bins=4)
    order = np.argsort(leverage).reshape(4, 50)
    inside = (np.abs(y) <= interval[:, 1])[order].sum(axis=1)
    np.testing.assert_array_equal(display.bin_coverage, inside / 50)
    exact = [binomtest(int(k), 50).proportion_ci(0.95, method="exact") for k in inside]
    np.testing.assert_allclose(display.bin_coverage_low, [bar.low for bar in exact], rtol=1e-12)
    np.testing.assert_allclose(display.bin_coverage_high, [bar.high for bar in exact], rtol=1e-12)


@pytest.mark.parametrize("inside", [True, False])
def test_bars_end_at_0_and_1_when_none_or_all_are_covered(inside):
    y = np.zeros(20) if inside else np.full(20, 5.0)
    display = LeverageDisplay.from_predictions(
        y, np.tile([-1.0, 1.0], (20, 1)), np.ones(20), confidence_level=0.9, n_bins=1
    )
    exact = binomtest(20 if inside else 0, 20).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose([display.bin_coverage_low[0], display.bin_coverage_high[0]], exact, rtol=1e-12)


def test_the_nominal_line_stands_at_the_level_and_the_points_are_the_widths(rows):
    y, interval, leverage = rows
    display = LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.8, name="mine")
    assert set(display.nominal_.get_ydata()) == {0.8}
    np.testing.assert_array_equal(display.points_.get_xdata(), leverage)
    np.testing.assert_allclose(display.points_.get_ydata(), interval[:, 1] - interval[:, 0])
    assert display.axes_[0].get_legend().get_texts()[0].get_text() == "mine"


def test_infinite_rows_are_counted_and_not_drawn(rows):
    y, interval, leverage = rows
    interval[:3], leverage[2:5] = [-np.inf, np.inf], np.inf
    display = LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.8)
    assert len(display.points_.get_xdata()) == 195
    assert display.axes_[1].get_ylabel() == "interval width (5 infinite not drawn)"
    display.figure_.canvas.draw()


def test_a_leverage_of_zero_gives_a_linear_axis(rows):
    y, interval, leverage = rows
    leverage[0] = 0
    display = LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.8)
    assert display.axes_[0].get_xscale() == "linear"


def test_two_displays_share_axes_and_both_stay_in_sight(rows):
    y, interval, leverage = rows
    first = LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.8, name="a")
    second = LeverageDisplay.from_predictions(y, 3 * interval, leverage, confidence_level=0.8, name="b", ax=first.axes_)
    assert second.axes_ is not first.axes_
    assert second.figure_ is first.figure_
    assert first.axes_[1].get_ylim()[1] >= (6 * interval[:, 1]).max()
    assert len(first.axes_[0].get_legend().get_texts()) == 2


def test_one_axes_is_divided_in_two(rows):
    figure, axes = plt.subplots()
    y, interval, leverage = rows
    display = LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.8, ax=axes)
    assert display.figure_ is figure
    assert len(figure.axes) == 3
    assert not axes.axison


def test_keywords_reach_matplotlib(rows):
    y, interval, leverage = rows
    display = LeverageDisplay.from_predictions(
        y, interval, leverage, confidence_level=0.8, points_kwargs={"color": "red"}, errorbar_kwargs={"capsize": 0}
    )
    assert display.points_.get_color() == "red"


class Calibrated:
    """Has what the display asks of an estimator."""

    confidence_level = 0.8

    def __init__(self, rows):
        self.rows = rows

    def predict_interval(self, X, confidence_level):
        _, interval, _ = self.rows
        return np.zeros(len(interval)), interval * confidence_level

    def leverage(self, X):
        return self.rows[2]


@pytest.mark.parametrize("level", [None, 0.5])
def test_an_estimator_is_asked_at_its_own_level_or_at_the_one_given(rows, level):
    y, interval, leverage = rows
    display = LeverageDisplay.from_estimator(Calibrated(rows), None, y, confidence_level=level)
    used = 0.8 if level is None else level
    expected = LeverageDisplay.from_predictions(y, interval * used, leverage, confidence_level=used)
    np.testing.assert_array_equal(display.bin_coverage, expected.bin_coverage)
    np.testing.assert_array_equal(display.width, expected.width)


REFUSED = {
    "lengths differ": ({"leverage": np.ones(3)}, r"same m >= 1 rows"),
    "several levels": ({"interval": np.zeros((200, 2, 3))}, r"one output at one level"),
    "several outputs": ({"y_true": np.zeros((200, 2))}, r"one output at one level"),
    "no rows": ({"y_true": [], "interval": np.zeros((0, 2)), "leverage": []}, r"same m >= 1 rows"),
    "nan target": ({"y_true": np.full(200, np.nan)}, "y_true must not hold NaN; row 0"),
    "nan leverage": ({"leverage": np.r_[np.ones(199), np.nan]}, "leverage must not hold NaN; row 199"),
    "level": ({"confidence_level": 90}, "strictly between 0 and 1"),
    "list of levels": ({"confidence_level": [0.8, 0.9]}, "one number here"),
    "no bins": ({"n_bins": 0}, "n_bins must be an integer >= 1"),
    "half a bin": ({"n_bins": 2.5}, "n_bins must be an integer >= 1"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_rows_that_do_not_belong_together_are_refused(rows, change, message):
    arguments = dict(zip(("y_true", "interval", "leverage"), rows, strict=True), confidence_level=0.8) | change
    with pytest.raises(ValueError, match=message):
        LeverageDisplay.from_predictions(**arguments)


def test_without_matplotlib_the_message_names_the_extra(rows, monkeypatch):
    y, interval, leverage = rows
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "hatband\[plot\]"'):
        LeverageDisplay.from_predictions(y, interval, leverage, confidence_level=0.8)
