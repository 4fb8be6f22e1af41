"""Coverage tables, gaps and squared errors against hand counts, exact enumeration and MAPIE."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest

from hatband import SplitConformalRegressor
from hatband.diagnostics import (
    binomial_interval,
    coverage_by_leverage,
    coverage_gap,
    interval_score,
    mean_width,
    size_stratified_coverage,
    squared_coverage_error,
)


def band(width):
    """Intervals of these widths around 0."""
    return np.stack([-np.asarray(width) / 2, np.asarray(width) / 2], axis=1)


def targets(hits):
    """Targets inside or outside of band([2, 2, ...])."""
    return np.where(hits, 0.0, 5.0)


@pytest.fixture
def rows(rng):
    """Targets, intervals of different widths, leverages."""
    y = rng.standard_normal(300)
    return y, band(rng.uniform(2, 4, 300)), rng.uniform(0, 2, 300)


# ------------------------------------------------------------------ binomial bars


@pytest.mark.parametrize("n", [1, 7, 50])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_binomial_bars_are_those_of_scipy(n, confidence):
    lower, upper = binomial_interval(np.arange(n + 1), n, confidence)
    theirs = [binomtest(k, n).proportion_ci(confidence, "exact") for k in range(n + 1)]

    np.testing.assert_allclose(lower, [bar.low for bar in theirs], rtol=1e-9)
    np.testing.assert_allclose(upper, [bar.high for bar in theirs], rtol=1e-9)


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9])
def test_binomial_bars_hold_the_proportion_with_the_stated_probability(p):
    lower, upper = binomial_interval(np.arange(31), 30, 0.9)

    assert binom.pmf(np.arange(31), 30, p)[(lower <= p) & (p <= upper)].sum() >= 0.9


def test_no_row_says_nothing_about_a_proportion():
    assert binomial_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2), (0.5, 2)])
def test_invalid_counts_are_refused(hits, n):
    with pytest.raises(ValueError, match="hits"):
        binomial_interval(hits, n)


# ------------------------------------------------------------------ tables


def test_each_leverage_bin_is_a_hand_count(rows):
    y, interval, leverage = rows
    table = coverage_by_leverage(y, interval, leverage, n_bins=6)
    order = np.argsort(leverage)

    assert [row.n_samples for row in table.rows] == [50] * 6
    for row, mine in zip(table.rows, np.split(order, 6), strict=True):
        inside = [interval[i, 0] <= y[i] <= interval[i, 1] for i in mine]
        assert row.coverage == pytest.approx(sum(inside) / 50)
        assert (row.smallest, row.largest) == (leverage[mine].min(), leverage[mine].max())
        assert row.mean_width == pytest.approx(np.diff(interval[mine]).mean())
        assert (row.lower, row.upper) == pytest.approx(binomtest(sum(inside), 50).proportion_ci())


def test_infinite_leverages_and_intervals_fill_the_highest_bin():
    interval = band([1.0, 1.0, np.inf, np.inf])
    table = coverage_by_leverage(np.full(4, 3.0), interval, [0.1, 0.2, np.inf, np.inf], n_bins=2)

    assert [(row.coverage, row.mean_width) for row in table.rows] == [(0.0, 1.0), (1.0, np.inf)]
    assert table.lowest is table.rows[0]


def test_tables_give_columns_and_lines(rows):
    table = coverage_by_leverage(*rows, n_bins=3)

    assert table.to_dict()["coverage"] == [row.coverage for row in table.rows]
    assert len(repr(table).splitlines()) == 4
    assert len({len(line) for line in repr(table).splitlines()}) == 1


@pytest.mark.parametrize("n_bins", [2, 3, 5])
def test_size_stratified_coverage_is_that_of_mapie(rows, n_bins):
    metrics = pytest.importorskip("mapie.metrics.regression", reason="mapie is not installed")
    y, interval, _ = rows
    table = size_stratified_coverage(y, interval, n_bins=n_bins)

    np.testing.assert_allclose(table.to_dict()["coverage"], metrics.regression_ssc(y, interval, n_bins)[0])
    assert table.lowest.coverage == pytest.approx(metrics.regression_ssc_score(y, interval, n_bins)[0])


def test_coverage_width_and_interval_score_are_those_of_mapie(rows):
    metrics = pytest.importorskip("mapie.metrics.regression", reason="mapie is not installed")
    y, interval, leverage = rows
    [everything] = coverage_by_leverage(y, interval, leverage, n_bins=1).rows

    assert everything.coverage == pytest.approx(metrics.regression_coverage_score(y, interval)[0])
    assert mean_width(*interval.T) == pytest.approx(metrics.regression_mean_width_score(interval[:, :, None])[0])
    theirs = metrics.regression_mwi_score(y, interval[:, :, None], 0.9)
    assert interval_score(y, *interval.T, 0.9).mean() == pytest.approx(theirs)


def test_a_band_of_constant_width_has_one_size():
    [row] = size_stratified_coverage(np.zeros(10), band(np.full(10, 2.0))).rows

    assert (row.n_samples, row.smallest, row.largest) == (10, 2.0, 2.0)


def test_widths_that_differ_by_rounding_are_one_size(rng):
    X = rng.standard_normal((100, 2))
    y = 100 * X[:, 0] + rng.standard_normal(100)
    _, interval = SplitConformalRegressor(scale="constant", random_state=0).fit(X, y).predict_interval(X)
    table = size_stratified_coverage(y, interval)

    assert len(np.unique(np.diff(interval))) > 1
    assert len(table.rows) == 1


def test_infinite_intervals_are_the_largest():
    interval = np.array([[0.0, 1.0], [-np.inf, 0.0], [-np.inf, np.inf], [0.0, 2.0]])

    assert [row.largest for row in size_stratified_coverage(np.ones(4), interval, n_bins=2).rows] == [2.0, np.inf]


# ------------------------------------------------------------------ gap


def test_the_gap_is_lowest_minus_highest_fifth_with_its_binomial_error(rng):
    leverage = rng.permutation(100) / 100
    hits = rng.random(100) < 0.95 - 0.3 * leverage
    found = coverage_gap(targets(hits), band(np.full(100, 2.0)), leverage)
    low, high = hits[leverage < 0.2].mean(), hits[leverage >= 0.8].mean()

    assert (found.lowest, found.highest) == pytest.approx((low, high))
    assert found.gap == pytest.approx(low - high)
    variance = low * (1 - low) / 20 + high * (1 - high) / 20
    assert found.standard_error == pytest.approx(np.sqrt(variance * 100 / 99))


def test_the_gap_forms_fifths_within_each_repetition(rng):
    # The second repetition has leverages a thousand times larger: pooled fifths would compare repetitions.
    leverage = np.concatenate([np.arange(50), 1000 * (1 + np.arange(50))])
    hits = np.concatenate([np.arange(50) < 40, np.arange(50) < 45])
    found = coverage_gap(targets(hits), band(np.full(100, 2.0)), leverage, repetition=np.repeat(["a", "b"], 50))

    assert (found.lowest, found.highest) == (1.0, 0.25)


def test_the_error_of_the_gap_over_repetitions_is_that_of_their_mean(rng):
    # Repetitions of equal size: the pooled gap is the mean of their gaps, and its error that of a mean.
    leverage, repetition = np.tile(np.arange(50.0), 8), np.repeat(np.arange(8), 50)
    hits = rng.random(400) < np.repeat(rng.uniform(0.7, 1, 8), 50)
    found = coverage_gap(targets(hits), band(np.full(400, 2.0)), leverage, repetition=repetition)
    gaps = [h[:10].mean() - h[40:].mean() for h in np.split(hits, 8)]

    assert found.gap == pytest.approx(np.mean(gaps))
    assert found.standard_error == pytest.approx(np.std(gaps, ddof=1) / np.sqrt(8))


def test_a_gap_needs_leverages_that_differ_and_repetitions_that_repeat():
    with pytest.raises(ValueError, match="leverage must differ between rows"):
        coverage_gap(np.zeros(9), band(np.ones(9)), np.ones(9))
    with pytest.raises(ValueError, match="at least two repetitions"):
        coverage_gap(np.zeros(9), band(np.ones(9)), np.arange(9.0), repetition=np.ones(9))


# ------------------------------------------------------------------ squared error


def enumerated(m, p, level):
    """Expectation and standard deviation of raw and debiased error of two bins of m rows, over all outcomes."""
    values, weights = [], []
    interval, leverage = band(np.full(2 * m, 2.0)), np.arange(2.0 * m)
    for k, j in product(range(m + 1), repeat=2):
        hits = np.concatenate([np.arange(m) < k, np.arange(m) < j])
        found = squared_coverage_error(targets(hits), interval, leverage, level, n_bins=2)
        values.append([found.raw, found.debiased])
        weights.append(binom.pmf(k, m, p) * binom.pmf(j, m, p))
    mean = np.average(values, axis=0, weights=weights)
    return mean, np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights)), found


@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
def test_the_debiased_error_has_the_true_squared_error_as_expectation(p):
    (raw, debiased), _, _ = enumerated(6, p, 0.8)

    assert debiased == pytest.approx((p - 0.8) ** 2, abs=1e-14)
    assert raw == pytest.approx((p - 0.8) ** 2 + p * (1 - p) / 6)


@pytest.mark.parametrize("m", [2, 6, 9])
def test_floor_and_standard_error_are_those_of_perfect_coverage(m):
    (raw, debiased), (_, spread), found = enumerated(m, 0.9, 0.9)

    assert (found.raw_floor, found.debiased_floor) == pytest.approx((raw, 0.0))
    assert debiased == pytest.approx(0, abs=1e-14)
    assert found.standard_error == pytest.approx(spread)


@pytest.mark.parametrize(("n", "m"), [(19, 30), (500, 500)])
def test_floors_count_the_calibration_rows(n, m):
    k = -(-(n + 1) * 9 // 10)
    p = beta(k, n + 1 - k)
    found = squared_coverage_error(np.zeros(m), band(np.ones(m)), np.arange(m), 0.9, n_calibration=n)
    between = p.expect(lambda x: (x - 0.9) ** 2)

    assert found.debiased_floor == pytest.approx(between, rel=1e-6)
    assert found.raw_floor == pytest.approx(between + p.expect(lambda x: x * (1 - x)) * 10 / m, rel=1e-6)


def test_the_floor_of_500_and_500_rows_is_the_published_simulation():
    found = squared_coverage_error(np.zeros(500), band(np.ones(500)), np.arange(500), 0.9, n_calibration=500)

    assert found.raw_floor == pytest.approx(0.00197, abs=0.00005)


def test_bins_of_one_row_are_left_out():
    with pytest.raises(ValueError, match="must hold at least 2 rows"):
        squared_coverage_error(np.zeros(5), band(np.ones(5)), np.arange(5.0), 0.9)
    assert squared_coverage_error(np.zeros(5), band(np.ones(5)), [1, 1, 2, 3, 4], 0.9, n_bins=5).n_bins == 1
