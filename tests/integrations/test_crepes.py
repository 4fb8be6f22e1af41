"""crepes with our widths gives our intervals and our predictive distributions."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, Ridge

from hatband import SplitConformalRegressor
from integrations.cases import MODELS, SCALES, made, relative_difference, undocumented

pytest.importorskip("crepes", reason="crepes is not installed")
from crepes import ConformalPredictiveSystem, ConformalRegressor, WrapRegressor

import hatband.integrations.crepes as bridge
from hatband.integrations.crepes import LeverageDifficulty

LEVEL = 0.9


def trained(scale="leverage", estimator=None, parts=None):
    return SplitConformalRegressor(estimator, scale=scale, random_state=0).fit_train(*(parts or made()).train)


class TestIntervals:
    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("estimator", MODELS)
    def test_the_wrapped_band_gives_our_intervals(self, estimator, scale):
        parts = made()
        model = trained(SCALES[scale], MODELS[estimator], parts)
        band = LeverageDifficulty(model)
        found = WrapRegressor(band).calibrate(*parts.calibration, de=band).predict_int(parts.new[0], confidence=LEVEL)
        _, interval = model.calibrate(*parts.calibration).predict_interval(parts.new[0], LEVEL)
        assert relative_difference(found, interval) <= 1e-12

    @pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
    def test_the_bare_regressor_with_widths_gives_our_intervals(self, level):
        parts = made(n_calibration=100)
        model = trained(parts=parts)
        band, (X, y), new = LeverageDifficulty(model), parts.calibration, parts.new[0]
        regressor = ConformalRegressor().fit(y - model.predict(X), sigmas=band.apply(X))
        found = regressor.predict_int(model.predict(new), sigmas=band.apply(new), confidence=level)
        _, interval = model.calibrate(X, y).predict_interval(new, level)
        assert relative_difference(found, interval) <= 1e-12

    def test_beside_another_learner_it_is_a_difficulty_like_any_other(self):
        parts = made()
        model = trained("quantile", parts=parts)
        wrapped = WrapRegressor(clone(Ridge(100.0)).fit(*parts.train))
        wrapped.calibrate(*parts.calibration, de=LeverageDifficulty(model))
        interval = wrapped.predict_int(parts.new[0], confidence=LEVEL)
        half = (interval[:, 1] - interval[:, 0]) / LeverageDifficulty(model).apply(parts.new[0])
        np.testing.assert_allclose(half, half[0], rtol=1e-10)

    def test_without_shift_its_prediction_is_that_of_the_model(self):
        parts = made()
        model = trained("magnitude", parts=parts)
        np.testing.assert_array_equal(LeverageDifficulty(model).predict(parts.new[0]), model.predict(parts.new[0]))

    def test_another_regressor_with_a_standard_deviation_will_do(self):
        parts = made()
        process = GaussianProcessRegressor(alpha=0.5, optimizer=None).fit(*parts.train)
        _, deviation = process.predict(parts.new[0], return_std=True)
        np.testing.assert_array_equal(LeverageDifficulty(process).apply(parts.new[0]), deviation)


class TestPredictiveSystems:
    @pytest.mark.parametrize("scale", ["leverage", "quantile", "auto"])
    def test_the_intervals_between_percentiles_are_those_of_our_distribution(self, scale):
        parts = made()
        model = trained(scale, parts=parts)
        band = LeverageDifficulty(model)
        system = WrapRegressor(band).calibrate(*parts.calibration, de=band, cps=True)
        found = system.predict_int(parts.new[0], confidence=LEVEL)
        ours = model.calibrate(*parts.calibration).predictive_distribution(parts.new[0]).interval(LEVEL)
        assert relative_difference(found, ours) <= 1e-12

    def test_distributions_are_the_atoms_scaled_by_our_width(self):
        parts = made()
        model = trained(parts=parts)
        band, (X, y), new = LeverageDifficulty(model), parts.calibration, parts.new[0]
        system = ConformalPredictiveSystem().fit(y - band.predict(X), sigmas=band.apply(X))
        atoms = system.predict_cpds(band.predict(new), sigmas=band.apply(new))
        model.calibrate(X, y)
        width = model.predict(new, return_width=True)[1]
        ours = model.predict(new)[:, None] + width[:, None] * np.sort(model.scores_[:, 0])
        assert relative_difference(atoms, ours) <= 1e-12


class TestBadInput:
    def test_a_model_without_widths_is_refused(self):
        with pytest.raises(TypeError, match=r"LeverageDifficulty needs a fitted model whose predict takes return_std"):
            LeverageDifficulty(Ridge())

    def test_several_outputs_are_refused(self):
        X, y = made().train
        model = SplitConformalRegressor(scale="leverage").fit_train(X, np.column_stack([y, y]))
        with pytest.raises(ValueError, match="a bridge carries one output"):
            LeverageDifficulty(model).apply(X)

    def test_a_transformed_target_is_refused(self):
        X, _ = made().train
        model = trained("leverage", TransformedTargetRegressor(Ridge(), func=np.arcsinh, inverse_func=np.sinh))
        with pytest.raises(ValueError, match="learns a transformed target"):
            LeverageDifficulty(model).predict(X)

    def test_infinite_widths_are_refused_naming_the_first_row(self):
        X, y = made().train
        wide = np.column_stack([X, np.zeros(len(X))])
        model = SplitConformalRegressor(LinearRegression(), scale="leverage").fit_train(wide, y)
        with pytest.raises(ValueError, match=r"1 of 2 rows .* \(the first is row 1\)"):
            LeverageDifficulty(model).apply(np.array([[0.0, 0, 0, 0], [0, 0, 0, 1]]))

    def test_its_representation_names_the_model(self):
        assert repr(LeverageDifficulty(trained())).startswith("LeverageDifficulty(SplitConformalRegressor(")


def test_every_public_object_is_documented():
    assert undocumented(bridge) == []
