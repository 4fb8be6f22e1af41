"""The default scale: what it chooses in made designs, what it reports, and where it refuses to choose."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.tree import DecisionTreeRegressor

from hatband import (
    AutoScale,
    ConstantScale,
    LeverageScale,
    MagnitudeScale,
    QuantileScale,
    SplitConformalRegressor,
    StrengthScale,
)
from hatband.scales import auto
from hatband.scales.base import CallableScale
from hatband.scales.candidates import FittedBlend, default_candidates
from scales.cases import chosen, draw, rows_of

BY_LEVERAGE = {"strength", "leverage", "constant", "sampling strength"}
CHEAP = {"strength": StrengthScale(), "constant": ConstantScale(), "magnitude": MagnitudeScale()}


def made_rows(rng, n, deviation):
    """Rows of leverage, prediction and inputs drawn apart, with residuals of the deviation given."""
    h, prediction, inputs = rng.exponential(0.5, n), rng.standard_normal((n, 1)), rng.uniform(-1, 1, (n, 3))
    residual = deviation(h, prediction[:, 0], inputs) * rng.standard_normal(n)
    return rows_of(h, prediction, inputs), residual[:, None]


class TestNothingToLearn:
    @pytest.mark.parametrize(
        "model", [Ridge(), HistGradientBoostingRegressor(max_iter=5)], ids=lambda m: type(m).__name__
    )
    def test_a_constant_target_is_predicted_without_width(self, model, rng):
        X = rng.standard_normal((300, 3))
        _, interval = SplitConformalRegressor(model, random_state=0).fit(X, np.full(300, 3.0)).predict_interval(X[:4])

        np.testing.assert_allclose(interval, 3.0, rtol=1e-12)

    def test_a_target_that_is_predicted_exactly_nearly_everywhere_does_not_stop_it(self, rng):
        X = rng.standard_normal((300, 3))
        model = SplitConformalRegressor(DecisionTreeRegressor(random_state=0), random_state=0).fit(X, X[:, 0] > 1.8)

        assert np.isfinite(model.predict_interval(X)[1]).all()

    @pytest.mark.parametrize("unit", [1e-300, 1e300])
    def test_units_do_not_matter_even_where_squares_leave_float64(self, unit, rng):
        rows, residuals = made_rows(rng, 200, lambda h, p, x: np.sqrt(1 + 4 * h))
        found = [StrengthScale().fit(rows, factor * residuals).strength_[0] for factor in (1.0, unit)]

        assert found[1] == pytest.approx(found[0], rel=1e-6)


class TestChoice:
    @pytest.mark.parametrize("n", [150, 1000])
    def test_equal_noise_keeps_the_simple(self, n, rng):
        scale = AutoScale(random_state=0).fit(*made_rows(rng, n, lambda h, p, x: 1.0))

        assert set(chosen(scale.report_)) <= BY_LEVERAGE

    def test_the_textbook_keeps_leverage(self, rng):
        scale = AutoScale(random_state=0).fit(*made_rows(rng, 1000, lambda h, p, x: np.sqrt(1 + 4 * h)))

        assert set(chosen(scale.report_)) <= {"strength", "sampling strength"}
        assert scale.scales_[0].strength_[0] == pytest.approx(4.0, rel=0.5)

    @pytest.mark.parametrize(
        ("deviation", "names"),
        [
            (lambda h, p, x: np.exp(p), {"magnitude (leverage, prediction)"}),
            (lambda h, p, x: np.exp(2 * x[:, 0]), {"boosted quantile", "quantile", "both quantiles"}),
        ],
        ids=["noise by prediction", "noise by inputs"],
    )
    def test_other_noise_is_learned_from_what_it_follows(self, deviation, names, rng):
        scale = AutoScale(random_state=0).fit(*made_rows(rng, 1000, deviation))

        assert set(chosen(scale.report_)) <= names

    def test_each_output_has_its_own(self, rng):
        X, y = draw(rng, 600, noise=lambda x: np.exp(2 * x))
        model = SplitConformalRegressor(Ridge(), scale=AutoScale(CHEAP), random_state=0)
        model.fit(X, np.c_[y, X[:, 1] + rng.standard_normal(len(y))])

        assert chosen(model.scale_.report_, 0) == ["magnitude"]
        assert set(chosen(model.scale_.report_, 1)) <= {"strength", "constant"}
        assert np.ptp(model.predict_interval(X)[1], axis=2).shape == (600, 2)

    def test_a_blend_chosen_is_the_mean_of_its_parts_at_their_thresholds(self, rng):
        rows, residuals = made_rows(rng, 400, lambda h, p, x: np.exp(2 * x[:, 0]))
        quantile = QuantileScale(0.9, n_trees=10, random_state=0)
        parts = {"magnitude": MagnitudeScale(random_state=0), "quantile": quantile}
        candidates = parts | {"both": ("magnitude", "quantile", "quantile")}
        blend = auto._Choice(candidates, 0.9, 0)._fitted("both", rows, residuals[:, 0], None, [2.0, 3.0, 3.0])
        (_, by_magnitude), (shift, by_quantile) = (part.fit(rows, residuals).predict(rows) for part in parts.values())
        found_shift, found_width = blend.predict(rows)

        assert isinstance(blend, FittedBlend)
        np.testing.assert_allclose(found_shift, 2 * shift / 3, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found_width, (2 * by_magnitude + 6 * by_quantile) / 3, rtol=1e-12)


class TestReport:
    def test_has_a_row_for_every_candidate_with_one_chosen(self, rng):
        scale = AutoScale(random_state=0).fit(*made_rows(rng, 150, lambda h, p, x: 1.0))
        report = scale.report_

        assert [entry["candidate"] for entry in report] == list(default_candidates())
        assert all(
            set(entry) == {"output", "candidate", "score", "excess", "standard_error", "chosen"} for entry in report
        )
        assert sum(entry["chosen"] for entry in report) == 1
        best = min(report, key=lambda entry: entry["score"])
        assert (best["excess"], best["standard_error"]) == (0.0, 0.0)
        np.testing.assert_allclose([e["score"] - best["score"] for e in report], [e["excess"] for e in report])

    def test_scores_are_those_of_a_count_by_hand(self, rng):
        rows, residuals = made_rows(rng, 199, lambda h, p, x: np.sqrt(1 + h))
        scale = AutoScale({"constant": ConstantScale(), "leverage": LeverageScale()}, random_state=0)
        report = scale.fit(rows, residuals).report_
        for entry, width in zip(report, (np.ones(199), np.sqrt(1 + rows.leverage)), strict=True):
            size = np.abs(residuals[:, 0])
            half = np.sort(size / width)[180 - 1] * width
            assert entry["score"] == pytest.approx(np.mean(2 * half + 20 * np.maximum(size - half, 0)), rel=1e-12)

    def test_scores_of_forests_that_are_tried_with_a_part_of_their_trees_count_five_per_cent_less(self, rng):
        rows, residuals = made_rows(rng, 150, lambda h, p, x: 1.0)
        forests = {"whole": QuantileScale(n_trees=25), "part": QuantileScale(n_trees=50)}
        whole, part = AutoScale(forests, random_state=0).fit(rows, residuals).report_

        assert part["score"] == pytest.approx(0.95 * whole["score"], rel=1e-12)


class TestTooFewRows:
    @pytest.mark.parametrize(
        ("n", "level", "weight", "reason"),
        [
            (99, 0.9, None, "99 training rows, fewer than 100"),
            (150, 0.999, None, "150 training rows, fewer than 999"),
            (150, 0.9, np.resize([1.0, 0.0], 150), "75 training rows, fewer than 100"),
        ],
        ids=["rows", "rows for the level", "rows with weight"],
    )
    def test_leave_the_leverage_scale_and_a_reason(self, n, level, weight, reason, rng):
        rows, residuals = made_rows(rng, n, lambda h, p, x: 1.0)
        scale = AutoScale(level=level).fit(rows, residuals, weight)
        _, width = scale.predict(rows)

        assert scale.report_ == [{"output": 0, "candidate": "leverage", "chosen": True, "reason": reason}]
        np.testing.assert_allclose(width[:, 0], np.sqrt(1 + rows.leverage))

    def test_of_finite_leverage_count(self, rng):
        rows, residuals = made_rows(rng, 150, lambda h, p, x: 1.0)
        h = np.where(np.arange(150) < 60, np.inf, rows.leverage)
        scale = AutoScale().fit(rows_of(h, rows.prediction, rows.inputs), residuals)

        assert scale.report_[0]["reason"].startswith("90 training rows")

    def test_are_told_for_every_output(self, rng):
        X, y = draw(rng, 80)
        model = SplitConformalRegressor(Ridge(), random_state=0).fit(X, np.c_[y, y])

        assert [entry["output"] for entry in model.scale_.report_] == [0, 1]
        assert model.predict_interval(X)[1].shape == (80, 2, 2)


class TestRows:
    def test_beyond_twenty_thousand_take_no_part_in_the_choice_but_in_the_fit(self, rng, monkeypatch):
        monkeypatch.setattr(auto, "MOST_ROWS", 200)
        tried, fitted = [], []

        class Counting(ConstantScale):
            def fit(self, rows=None, residuals=None, sample_weight=None):
                (tried if len(rows) < 200 else fitted).append(len(rows))
                return self

        AutoScale({"counting": Counting()}, random_state=0).fit(*made_rows(rng, 500, lambda h, p, x: 1.0))

        assert fitted == [500]
        assert sorted(tried) == [133, 133, 134]

    def test_of_weight_zero_decide_nothing(self, rng):
        rows, residuals = made_rows(rng, 600, lambda h, p, x: 1.0)
        weight = np.resize([1.0, 0.0], 600)
        wild = np.where(weight[:, None] > 0, residuals, 1e6 * residuals)
        scores = [
            [entry["score"] for entry in AutoScale(CHEAP, random_state=0).fit(rows, given, weight).report_]
            for given in (residuals, wild)
        ]

        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-12)

    def test_of_infinite_leverage_have_infinite_intervals(self, rng):
        rows, residuals = made_rows(rng, 300, lambda h, p, x: np.sqrt(1 + 4 * h))
        scale = AutoScale(CHEAP, random_state=0).fit(rows, residuals)
        _, width = scale.predict(rows_of(np.array([0.1, np.inf]), np.zeros((2, 1)), np.zeros((2, 3))))

        assert np.isinf(width[:, 0]).tolist() == [False, True]


class TestOffTheData:
    """A thousand times as far out as any training row."""

    @pytest.mark.parametrize("noise", [lambda x: 0.2 + np.abs(x), lambda x: 1.0], ids=["learned", "simple"])
    @pytest.mark.parametrize(
        "estimator",
        [LinearRegression(), KernelRidge(kernel="laplacian")],
        ids=["least squares", "laplacian"],
    )
    def test_no_training_row_has_a_wider_interval(self, estimator, noise, rng):
        X, y = draw(rng, 400, noise)
        model = SplitConformalRegressor(estimator, random_state=0).fit(X, y)
        direction = rng.standard_normal((20, 3))
        far = 1000 * np.linalg.norm(X, axis=1).max() * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        widest = np.ptp(model.predict_interval(X)[1], axis=1).max()

        assert np.ptp(model.predict_interval(far)[1], axis=1).min() >= widest * (1 - 1e-9)


def deviation_of_inputs(rows):
    return np.exp(2 * rows.inputs[:, 0])


class TestFunctionsOfTheUsers:
    def test_compete_with_flat_widths_too(self, rng):
        rows, residuals = made_rows(rng, 300, lambda h, p, x: np.exp(2 * x[:, 0]))
        candidates = {"constant": ConstantScale(), "mine": CallableScale(deviation_of_inputs)}
        scale = AutoScale(candidates, random_state=0).fit(rows, residuals)
        _, width = scale.predict(rows)

        assert chosen(scale.report_) == ["mine"]
        np.testing.assert_array_equal(width[:, 0], deviation_of_inputs(rows))

    @pytest.mark.parametrize("width", [0.0, -1.0, np.nan, np.inf])
    def test_must_give_widths(self, width, rng):
        candidates = {"mine": CallableScale(lambda rows: np.full(len(rows), width))}
        with pytest.raises(ValueError, match="widths that are finite and > 0"):
            AutoScale(candidates).fit(*made_rows(rng, 150, lambda h, p, x: 1.0))


class TestErrors:
    @pytest.mark.parametrize("level", [0.0, 1.0, -1, "high"])
    def test_levels_lie_inside_zero_and_one(self, level):
        with pytest.raises((ValueError, TypeError), match="level"):
            AutoScale(level=level).fit(rows_of(np.ones(200)), np.ones((200, 1)))

    def test_a_wrong_choice_of_candidates_leaves_no_half_fitted_scale(self):
        scale = AutoScale({})
        with pytest.raises(ValueError, match="at least one Scale"):
            scale.fit(rows_of(np.ones(200)), np.ones((200, 1)))

        assert not [name for name in vars(scale) if name.endswith("_")]
