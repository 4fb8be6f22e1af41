"""MAPIE's regressors with our widths give our intervals, and MAPIE's metrics take our arrays."""

import warnings

import numpy as np
import pytest
from scipy.stats import betabinom
from sklearn.compose import TransformedTargetRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, Ridge

from hatband import SplitConformalRegressor
from hatband.formulas.metrics import covered, interval_score, mean_width
from integrations.cases import MODELS, SCALES, made, relative_difference, undocumented

pytest.importorskip("mapie", reason="mapie is not installed")
from mapie.conformity_scores import StdConformityScore
from mapie.metrics.regression import (
    regression_coverage_score,
    regression_mean_width_score,
    regression_mwi_score,
)
from mapie.regression import CrossConformalRegressor as MapieCross
from mapie.regression import JackknifeAfterBootstrapRegressor as MapieBootstrap
from mapie.regression import SplitConformalRegressor as MapieSplit

import hatband.integrations.mapie as bridge
from hatband.integrations.mapie import LeverageConformityScore, WidthAsStd

LEVELS = [0.5, 0.8, 0.9]


def trained(scale="leverage", estimator=None, parts=None, **options):
    model = SplitConformalRegressor(estimator, scale=scale, random_state=0, **options)
    return model.fit_train(*(parts or made()).train)


def through_mapie(model, score, parts, levels=LEVELS):
    mapie = MapieSplit(model, confidence_level=levels, conformity_score=score, prefit=True)
    return mapie.conformalize(*parts.calibration).predict_interval(parts.new[0])


class TestSplit:
    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("estimator", MODELS)
    def test_the_score_gives_our_upper_and_lower_bounds(self, estimator, scale):
        parts = made()
        model = trained(SCALES[scale], MODELS[estimator], parts)
        found_point, found = through_mapie(model, LeverageConformityScore(model), parts)
        point, interval = model.calibrate(*parts.calibration).predict_interval(parts.new[0], LEVELS)
        np.testing.assert_array_equal(found_point, point)
        assert found.shape == interval.shape
        assert relative_difference(found, interval) <= 1e-12

    @pytest.mark.parametrize("n", [20, 57, 90])
    def test_on_any_number_of_calibration_rows(self, n):
        parts = made(n_calibration=n)
        model = trained(parts=parts)
        _, found = through_mapie(model, LeverageConformityScore(model), parts)
        _, interval = model.calibrate(*parts.calibration).predict_interval(parts.new[0], LEVELS)
        assert relative_difference(found, interval) <= 1e-12

    def test_around_the_bare_estimator_as_around_the_model(self):
        parts = made()
        model = trained(parts=parts)
        _, around_model = through_mapie(model, LeverageConformityScore(model), parts)
        _, around_ridge = through_mapie(model.estimator_, LeverageConformityScore(model), parts)
        np.testing.assert_array_equal(around_ridge, around_model)

    @pytest.mark.parametrize("scale", ["constant", "leverage", "strength", "magnitude"])
    def test_their_standardised_score_gives_our_upper_bounds(self, scale):
        # MAPIE's lower bounds in this mode are those of one rank less.
        parts = made()
        model = WidthAsStd(SplitConformalRegressor(scale=SCALES[scale], random_state=0)).fit(*parts.train)
        _, found = through_mapie(model, StdConformityScore(), parts)
        _, interval = model.model_.calibrate(*parts.calibration).predict_interval(parts.new[0], LEVELS)
        assert relative_difference(found[:, 1], interval[:, 1]) <= 1e-12

    def test_of_separate_thresholds_the_upper_bounds_are_ours(self):
        parts = made()
        model = trained(parts=parts, symmetric=False)
        _, found = through_mapie(model, LeverageConformityScore(model, sym=False), parts)
        _, interval = model.calibrate(*parts.calibration).predict_interval(parts.new[0], LEVELS)
        assert relative_difference(found[:, 1], interval[:, 1]) <= 1e-12

    def test_scores_and_distribution_undo_each_other(self):
        parts = made()
        X, y = parts.calibration
        score = LeverageConformityScore(trained("quantile", parts=parts))
        prediction = np.linspace(-1, 1, len(y))
        signed = score.get_signed_conformity_scores(y, prediction, X=X)
        back = score.get_estimation_distribution(prediction, signed, X=X)
        np.testing.assert_allclose(back, y, rtol=1e-12, atol=1e-12 * np.abs(y).max())

    def test_targets_of_any_size_pass(self):
        parts = made()
        huge = [(X, 1e12 * y) for X, y in parts]
        model = trained(parts=parts._make(huge))
        _, found = through_mapie(model, LeverageConformityScore(model), parts._make(huge))
        assert np.isfinite(found).all()

    def test_another_regressor_with_a_standard_deviation_will_do(self):
        parts = made()
        process = GaussianProcessRegressor(alpha=0.5, optimizer=None).fit(*parts.train)
        _, found = through_mapie(process, LeverageConformityScore(process), parts)
        center, deviation = process.predict(parts.new[0], return_std=True)
        half = (found[:, 1] - center[:, None]) / deviation[:, None]
        np.testing.assert_allclose(half, np.broadcast_to(half[0], half.shape), rtol=1e-10)


class TestManyModels:
    """CV+ and jackknife+-after-bootstrap: every fold's own leverage through ``return_std``."""

    @pytest.mark.parametrize("method", ["base", "plus", "minmax"])
    def test_cross_conformal_regression_covers(self, method):
        parts = made(n_new=500)
        model = WidthAsStd(SplitConformalRegressor(scale="leverage"))
        mapie = MapieCross(model, confidence_level=LEVELS, cv=5, method=method, conformity_score=StdConformityScore())
        _, interval = mapie.fit_conformalize(*parts.train).predict_interval(parts.calibration[0])
        self.check(interval, parts.calibration[1])

    @pytest.mark.parametrize("method", ["plus", "minmax"])
    def test_jackknife_after_bootstrap_covers(self, method):
        parts = made()
        model = WidthAsStd(SplitConformalRegressor(scale="leverage"))
        mapie = MapieBootstrap(
            model,
            confidence_level=LEVELS,
            resampling=15,
            method=method,
            conformity_score=StdConformityScore(),
            random_state=0,
        )
        _, interval = mapie.fit_conformalize(*parts.train).predict_interval(parts.calibration[0])
        self.check(interval, parts.calibration[1])

    def test_every_fold_has_the_leverage_of_its_own_model(self):
        X, y = made().train
        model = WidthAsStd(SplitConformalRegressor(scale="leverage"))
        mapie = MapieCross(model, confidence_level=0.9, cv=5, conformity_score=StdConformityScore())
        mapie.fit_conformalize(X, y)
        spaces = [fold.model_.space_ for fold in mapie._mapie_regressor.estimator_.estimators_]
        leverages = np.array([space.leverage(space.features(X[:5])) for space in spaces])
        assert (np.ptp(leverages, axis=0) > 0).all()

    @staticmethod
    def check(interval, y):
        """Widths differ, levels are nested, coverage is at least that of 1 - 2 (1 - level); false alarms below 1e-6."""
        assert interval.shape == (len(y), 2, len(LEVELS))
        assert (np.diff(interval[:, 1] - interval[:, 0], axis=1) > 0).all()
        assert np.ptp(interval[:, 1, -1] - interval[:, 0, -1]) > 0
        inside = covered(y, interval[:, 0, -1], interval[:, 1, -1]).sum()
        assert inside >= betabinom.ppf(1e-6, len(y), 120, 30)


class TestMetrics:
    """MAPIE's metrics on intervals of ours, for a list of levels, as they are."""

    def intervals(self):
        parts = made()
        model = trained(parts=parts).calibrate(*parts.calibration)
        return parts.new[1], model.predict_interval(parts.new[0], LEVELS)[1]

    def test_coverage_agrees_with_ours(self):
        y, interval = self.intervals()
        ours = [covered(y, interval[:, 0, j], interval[:, 1, j]).mean() for j in range(len(LEVELS))]
        np.testing.assert_allclose(regression_coverage_score(y, interval), ours, rtol=1e-14)

    def test_width_agrees_with_ours(self):
        _, interval = self.intervals()
        np.testing.assert_allclose(
            regression_mean_width_score(interval), mean_width(interval[:, 0], interval[:, 1]), rtol=1e-12
        )

    @pytest.mark.parametrize("j", range(len(LEVELS)))
    def test_interval_score_agrees_with_ours(self, j):
        y, interval = self.intervals()
        ours = interval_score(y, interval[:, 0, j], interval[:, 1, j], LEVELS[j]).mean()
        theirs = regression_mwi_score(y, interval[:, :, [j]], LEVELS[j])
        assert theirs == pytest.approx(ours, rel=1e-12)


class TestBadInput:
    def test_a_model_without_widths_is_refused(self):
        with pytest.raises(TypeError, match=r"LeverageConformityScore needs a fitted model whose predict takes"):
            LeverageConformityScore(Ridge())

    def test_several_outputs_are_refused(self):
        X, y = made().train
        model = SplitConformalRegressor(scale="leverage").fit_train(X, np.column_stack([y, y]))
        with pytest.raises(ValueError, match="a bridge carries one output"):
            LeverageConformityScore(model).get_signed_conformity_scores(y, y, X=X)

    def test_a_transformed_target_is_refused(self):
        X, y = made().train
        logarithm = TransformedTargetRegressor(Ridge(), func=np.arcsinh, inverse_func=np.sinh)
        model = SplitConformalRegressor(logarithm, scale="leverage").fit_train(X, y)
        with pytest.raises(ValueError, match="learns a transformed target"):
            LeverageConformityScore(model).get_signed_conformity_scores(y, y, X=X)

    def test_a_row_of_infinite_leverage_has_score_0_and_an_infinite_interval(self):
        X, y = made().train
        wide = np.column_stack([X, np.zeros(len(X))])
        model = SplitConformalRegressor(LinearRegression(), scale="leverage").fit_train(wide, y)
        score = LeverageConformityScore(model)
        outside = np.array([[0.0, 0.0, 0.0, 1.0]])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert score.get_signed_conformity_scores([1.0], [0.0], X=outside) == 0
            for q, bound in [(2.0, np.inf), (-2.0, -np.inf), (0.0, np.inf), (-0.0, -np.inf)]:
                assert score.get_estimation_distribution([0.0], q, X=outside) == bound


def test_every_public_object_is_documented():
    assert undocumented(bridge) == []
