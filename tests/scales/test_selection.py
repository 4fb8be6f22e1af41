"""Choosing between scales: nothing is scored on rows that it has seen, and what is simple wins unless shown worse."""

import numpy as np
import pytest
from sklearn.linear_model import QuantileRegressor
from sklearn.model_selection import KFold

from hatband import ConstantScale, LeverageScale, MagnitudeScale, QuantileScale
from hatband.scales.base import Scale
from hatband.scales.candidates import (
    TRIAL_LOSS,
    TRIAL_TREES,
    best_of_its_kind,
    out_of_fold,
    own_threshold,
    scores_at,
    simplest_within_one_error,
    trial_version,
)
from scales.cases import rows_of


class Memory(Scale):
    """Width 2 for rows that were in fit, by their leverage, and 1 for others; shift: the weight seen."""

    def fit(self, rows, residuals=None, sample_weight=None):
        self.seen_ = set(rows.leverage)
        self.weight_ = len(rows) if sample_weight is None else sample_weight.sum()
        self.residual_ = residuals[:, 0].sum()
        return self

    def predict(self, rows):
        width = np.array([2.0 if h in self.seen_ else 1.0 for h in rows.leverage])
        return np.full((len(rows), 1), float(self.weight_)), width[:, None]


class TestOutOfFold:
    def test_no_row_meets_a_scale_that_has_seen_it(self):
        rows, folds = rows_of(np.arange(31.0)), list(KFold(3).split(np.arange(31)))
        shift, width = out_of_fold(Memory(), rows, np.zeros(31), None, folds)

        np.testing.assert_array_equal(width, 1.0)
        np.testing.assert_array_equal(shift, np.repeat([20.0, 21.0, 21.0], [11, 10, 10]))

    def test_weights_go_with_their_rows(self):
        rows, folds = rows_of(np.arange(30.0)), list(KFold(3).split(np.arange(30)))
        shift, _ = out_of_fold(Memory(), rows, np.zeros(30), np.arange(30.0), folds)

        np.testing.assert_array_equal(shift, np.repeat([np.arange(10, 30).sum(), 290, np.arange(20).sum()], 10))


class TestScores:
    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_the_threshold_is_the_exact_order_statistic_of_scaled_residuals(self, level, rng):
        residual, shift, width = rng.standard_normal(99), rng.standard_normal(99), rng.uniform(1, 2, 99)
        ordered = np.sort(np.abs(residual - shift) / width)

        assert own_threshold(residual, shift, width, level) == ordered[round(100 * level) - 1]

    def test_are_width_plus_penalty_for_each_row(self):
        residual, shift, width = np.array([0.0, 3.0, -4.0]), np.array([0.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.5])
        found = scores_at(2.0, residual, shift, width, 0.9)

        np.testing.assert_allclose(found, [4.0, 4.0 + 20 * 0.5, 2.0 + 20 * 3.0], rtol=1e-12)

    def test_do_not_depend_on_the_unit_of_widths(self, rng):
        residual, width = rng.standard_normal(99), rng.uniform(1, 2, 99)
        both = [
            scores_at(own_threshold(residual, 0 * width, unit * width, 0.9), residual, 0 * width, unit * width, 0.9)
            for unit in (1.0, 1e6)
        ]

        np.testing.assert_allclose(*both, rtol=1e-12)


class TestOneStandardErrorRule:
    def table(self, *excesses, n=100):
        """Scores whose excess over the last column has the means given and standard error 1."""
        noise = np.resize([1.0, -1.0], n) * np.sqrt(n)
        return np.stack([mean + noise for mean in excesses] + [np.zeros(n)], axis=1)

    @pytest.mark.parametrize(
        ("excesses", "choice"),
        [
            ((0.5, 0.2), 0),
            ((0.99, 3.0), 0),
            ((1.01, 0.2), 1),
            ((1.5, 1.5), 2),
            ((50.0, 0.01), 1),
        ],
    )
    def test_takes_the_first_that_is_not_worse_by_more_than_the_error(self, excesses, choice):
        found, mean, error = simplest_within_one_error(self.table(*excesses))

        assert found == choice
        np.testing.assert_allclose(mean, [*excesses, 0.0], atol=1e-12)
        np.testing.assert_allclose(error, [1.0, 1.0, 0.0], rtol=1e-12)

    def test_pairs_rows_so_that_what_they_share_is_not_an_error(self, rng):
        hard = 1e3 * rng.exponential(size=500)
        found, _, error = simplest_within_one_error(np.stack([hard + 0.1, hard], axis=1))

        assert found == 1
        assert error.max() < 1e-10

    def test_of_equals_takes_the_simplest(self):
        assert simplest_within_one_error(np.ones((10, 4)))[0] == 0

    def test_the_best_may_stand_anywhere(self, rng):
        scores = rng.standard_normal((200, 5)) + 10 * np.arange(5)

        assert simplest_within_one_error(scores)[0] == 0
        assert simplest_within_one_error(scores[:, ::-1])[0] == 4


@pytest.mark.parametrize(("choice", "expected"), [(0, 0), (1, 2), (2, 2), (3, 3)])
def test_of_equally_simple_candidates_the_best_is_taken(choice, expected):
    kinds, means = [("a",), ("b",), ("b",), ("c",)], np.array([5.0, 3.0, 2.0, 1.0])

    assert best_of_its_kind(kinds, choice, means) == expected


class TestTrialVersion:
    def test_has_fewer_trees_and_says_what_that_costs(self):
        scale = QuantileScale(n_trees=400, columns=("inputs",))
        trial, loss = trial_version(scale)

        assert (trial.n_trees, trial.columns, loss) == (TRIAL_TREES, ("inputs",), TRIAL_LOSS)
        assert scale.n_trees == 400

    @pytest.mark.parametrize(
        "scale",
        [
            ConstantScale(),
            LeverageScale(),
            MagnitudeScale(),
            QuantileScale(n_trees=TRIAL_TREES),
            QuantileScale(regressor=QuantileRegressor()),
        ],
    )
    def test_is_the_scale_itself_where_that_is_cheap(self, scale):
        trial, loss = trial_version(scale)

        assert trial is not scale
        assert (repr(trial), loss) == (repr(scale), 0.0)
