"""Worst-slab coverage against a look at every window."""

import numpy as np
import pytest

from hatband.diagnostics import worst_slab_coverage
from hatband.diagnostics.slabs import least_mean_windows, worst_slab


def every_window(hits, position, size):
    """Least mean over all windows of at least `size` sorted rows that cut no tie."""
    n = len(hits)
    cuts = [0, *(i for i in range(1, n) if position[i] > position[i - 1]), n]
    return min(hits[i:j].mean() for i in cuts for j in cuts if j - i >= size)


@pytest.mark.parametrize("size", [1, 5, 20, 39, 40])
@pytest.mark.parametrize("values", [3, 12, 10**9], ids=["many ties", "ties", "no ties"])
def test_the_worst_window_is_the_worst_of_all(rng, size, values):
    position = np.sort(rng.integers(values, size=(30, 40)), axis=1).astype(float)
    hits = rng.random((30, 40)) < 0.8
    mean, start, stop = least_mean_windows(hits, position, size)

    for k in range(30):
        assert mean[k] == pytest.approx(every_window(hits[k], position[k], size))
        assert mean[k] == pytest.approx(hits[k, start[k] : stop[k]].mean())
        assert stop[k] - start[k] >= size


@pytest.fixture
def holed(rng):
    """Coverage 0.95, but 0.6 where the first of three columns, in other units, exceeds 2 of its 2.5."""
    X = rng.uniform(0, 2.5, (4000, 3)) * [1, 1, 1000]
    hits = rng.random(4000) < np.where(X[:, 0] > 2, 0.6, 0.95)
    return np.where(hits, 0.0, 5.0), np.tile([-1.0, 1.0], (4000, 1)), X


def test_it_finds_the_slab_in_which_coverage_fails(holed):
    y, interval, X = holed
    found = worst_slab_coverage(y, interval, X, random_state=0)

    assert found.n_samples >= 150
    assert found.coverage < 0.7
    assert abs(found.direction[0]) > 0.9


def test_the_held_out_coverage_of_the_slab_is_a_hand_count(holed):
    y, interval, X = holed
    found = worst_slab_coverage(y, interval, X, n_directions=50, random_state=1)
    held_out = np.random.RandomState(1).permutation(4000)[2000:]
    position = X[held_out] @ found.direction
    inside = (found.start <= position) & (position <= found.stop)

    assert found.n_samples == inside.sum()
    assert found.coverage == pytest.approx((y[held_out][inside] == 0).mean())
    assert found.lower < found.coverage < found.upper


def test_held_out_rows_undo_the_bias_of_the_search(rng):
    # Coverage is 0.9 everywhere. 40 bars of 99.9 %: a false alarm in at most 4 % of seeds, and the seed is fixed.
    interval = np.tile([-1.0, 1.0], (400, 1))
    found = [
        worst_slab_coverage(
            np.where(rng.random(400) < 0.9, 0.0, 5.0),
            interval,
            rng.standard_normal((400, 5)),
            n_directions=100,
            confidence=0.999,
            random_state=seed,
        )
        for seed in range(40)
    ]

    assert all(slab.searched_coverage < 0.86 for slab in found)
    assert all(slab.lower <= 0.9 <= slab.upper for slab in found)


@pytest.mark.parametrize("block", [1, 5000, 10**9])
def test_blocks_of_directions_change_nothing(holed, rng, block):
    y, _, X = holed
    directions = rng.standard_normal((40, 3))
    found = worst_slab(X, y == 0, directions, 300, block=block)
    each = [worst_slab(X, y == 0, direction[None], 300) for direction in directions]

    assert found[0] == min(slab[0] for slab in each)
    assert any(found[0] == slab[0] and found[2:] == slab[2:] for slab in each)


def test_columns_that_are_constant_or_in_other_units_change_no_slab(holed):
    y, interval, X = holed
    plain = worst_slab_coverage(y, interval, X, n_directions=30, random_state=0)
    scaled = worst_slab_coverage(y, interval, X * 2.0 ** np.array([3, -5, 7]), n_directions=30, random_state=0)
    constant = worst_slab_coverage(y, interval, np.zeros((4000, 2)), n_directions=3, random_state=0)

    assert repr(scaled) == repr(plain)
    assert constant.n_samples == 2000


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(20), "shape"),
        (np.zeros((19, 2)), "shape"),
        (np.full((20, 1), "a"), "numeric"),
        (np.full((20, 1), np.nan), "finite; row 0"),
    ],
)
def test_invalid_features_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        worst_slab_coverage(np.zeros(20), np.tile([-1.0, 1.0], (20, 1)), X)


@pytest.mark.parametrize("share", [0.0, 1.5, np.nan])
def test_an_invalid_share_is_refused(share):
    with pytest.raises(ValueError, match="smallest_share must be a share"):
        worst_slab_coverage(np.zeros(20), np.tile([-1.0, 1.0], (20, 1)), np.zeros((20, 1)), smallest_share=share)
