"""What every geometry and space promises: each entry of `SPACES` is held to it, and a new entry is tested at once."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from geometry.cases import COMPOSED, EVERY, FAR, NEW, SPACES, Case, N, W, X
from hatband.geometry import geometry_of
from hatband.geometry.composite import PerOutputSpace, Preprocessed
from hatband.geometry.features import RidgePerBatch
from oracles import leave_one_out_predictions

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMOOTHERS = [case for case in SPACES if isinstance(case, Case) and case.exactness != "none"]
EXACT = [case for case in SMOOTHERS if case.exactness == "exact"]
# Nothing of these is learned from X. Noise of each row belongs to these rows: a refit without one needs it too.
REFITTED = [c for c in [*EVERY, *COMPOSED] if c in EXACT and np.shape(getattr(c.model, "alpha", 0)) != (N,)]


@pytest.fixture(params=SPACES, ids=str)
def case(request):
    return request.param


def fitted(case):
    return case.geometry().fit(X, case.weights)


def measured(space, rows=NEW):
    F = space.features(rows)
    return np.asarray(space.leverage(F)), np.asarray(space.sampling_leverage(F)), *map(np.asarray, space.leverages(F))


def parts_of(geometry):
    """The geometries behind transformers, one or one for each output."""
    inner = geometry.geometry if isinstance(geometry, Preprocessed) else geometry
    return getattr(inner, "geometries", (inner,))


def spaces_of(space):
    """The spaces behind transformers, one or one for each output."""
    inner = getattr(space, "space", space)
    return inner.spaces if isinstance(inner, PerOutputSpace) else (inner,)


def row_weights(geometry):
    """Weights that the model gave its own training rows."""
    return getattr(parts_of(geometry)[0], "row_weights", None)


def training_weights(case):
    """Weights of the training rows, those that the model gave them included."""
    own = row_weights(case.geometry())
    return (1.0 if own is None else own) * (np.ones(N) if case.weights is None else case.weights)


def leave_one_out(case):
    """Predictions (n, q) of each row without it, y - e / (1 - w h)."""
    space, w, y = fitted(case), training_weights(case), case.y.reshape(N, -1)
    h = np.asarray(space.leverage(space.features(X))).reshape(N, -1)
    return y - (y - case.fitted().predict(X).reshape(y.shape)) / (1 - w[:, None] * h)


def knows_cross_leverage(space):
    F = space.features(NEW)
    try:
        space.cross_leverage(F, F)
    except ValueError:
        return False
    return True


class TestMeasuring:
    def test_every_form_has_its_shape_and_order(self, case):
        geometry = case.geometry()
        space = geometry.fit(X, case.weights)
        h, s, both_h, both_s = measured(space)
        outputs = len(spaces_of(space))
        assert h.shape == s.shape == ((len(NEW), outputs) if outputs > 1 else (len(NEW),))
        np.testing.assert_allclose((both_h, both_s), (h, s), rtol=1e-9)
        assert (s <= h * (1 + 1e-9)).all()
        assert (s > 0).all()
        assert getattr(space, "n_samples", N) == N
        assert space.exactness == geometry.exactness == case.exactness
        F = space.features(NEW)
        assert space.inputs(F).shape[0] == len(F) == len(NEW)

    def test_the_final_step_predicts_from_features_what_the_model_predicts_from_rows(self, case):
        if not isinstance(case, Case):
            return
        model = case.fitted()
        space = case.geometry().fit(X, case.weights)
        F = space.features(NEW)
        np.testing.assert_array_equal(space.final_step(model).predict(F.model_inputs), model.predict(NEW))

    def test_cross_leverage_of_a_row_with_itself_is_its_leverage_and_has_no_direction(self, case):
        space = fitted(case)
        if not knows_cross_leverage(space):
            assert space.exactness == "none"
            return
        F, others = space.features(NEW), space.features(X[:4])
        own = space.cross_leverage(F, F)
        np.testing.assert_allclose(np.einsum("ii...->i...", own), space.leverage(F), rtol=1e-6)
        there, back = space.cross_leverage(F, others), space.cross_leverage(others, F)
        np.testing.assert_allclose(there, np.swapaxes(back, 0, 1), rtol=1e-6, atol=1e-9 * np.abs(own).max())

    def test_cross_leverage_to_the_training_rows_is_known_or_asks_for_them(self, case):
        space = fitted(case)
        if not knows_cross_leverage(space):
            return
        F = space.features(NEW)
        expected = space.cross_leverage(F, space.features(X))
        try:
            found = space.cross_leverage(F)
        except ValueError as error:
            assert "pass others=space.features(X_train)" in str(error)  # noqa: PT017
            return
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())

    def test_rows_in_another_order_have_the_same_leverage(self, case):
        space = fitted(case)
        order = np.arange(len(NEW))[::-1]
        F = space.features(NEW)
        np.testing.assert_allclose(space.leverage(F.take(order)), space.leverage(F)[order], rtol=1e-9)

    def test_rows_that_were_never_seen_are_measured_however_far_out(self, case):
        h, s, *_ = measured(fitted(case), FAR[None])
        assert np.isfinite(h).all()
        assert (h > 0).all()
        assert (s <= h * (1 + 1e-9)).all()

    def test_measuring_writes_neither_to_the_space_nor_to_the_rows(self, case):
        train, rows = X.copy(), NEW.copy()
        for array in (train, rows):
            array.setflags(write=False)
        space = case.geometry().fit(train, case.weights)
        before = pickle.dumps(space)
        measured(space, rows)
        space.inputs(space.features(rows))
        assert pickle.dumps(space) == before


class TestTrainingRows:
    def test_leverages_times_weights_add_up_to_the_effective_dimension(self, case):
        space, w = fitted(case), training_weights(case)
        for j, part in enumerate(spaces_of(space)):
            if part.factor is None:
                continue
            F = space.features(X)
            # What landmarks cannot express is no part of the smoother.
            unseen = part.unseen_leverage(F) if hasattr(part, "unseen_leverage") else 0.0
            h = np.asarray(space.leverage(F)).reshape(N, -1)[:, j] - unseen
            assert w @ h == pytest.approx(part.factor.effective_dimension(), rel=1e-8)

    @pytest.mark.parametrize("case", SMOOTHERS, ids=str)
    def test_predictions_are_those_of_the_smoother_where_the_space_says_exact_or_given(self, case):
        """sum_i h(x, x_i) w_i y_i, of y or of what remains of it without its mean."""
        space, y, w = fitted(case), case.y.reshape(N, -1), training_weights(case)
        F = space.features(X)
        cross = np.asarray(space.cross_leverage(F, F)).reshape(N, N, -1)
        smoothed, rest = (
            np.einsum("ijq,jq->iq", np.broadcast_to(cross, (N, N, y.shape[1])), w[:, None] * part)
            for part in (y, y - y.mean(axis=0))
        )
        predicted = case.fitted().predict(X).reshape(N, -1)
        gap = min(np.abs(predicted - answer).max() for answer in (smoothed, y.mean(axis=0) + rest))
        assert gap <= 1e-6 * np.abs(y).max()

    @pytest.mark.parametrize("case", EXACT, ids=str)
    def test_a_row_on_its_leave_one_out_prediction_is_predicted_there_where_the_space_says_exact(self, case):
        """Fits to all of X hold what is learned from X: leave-one-out is what a row moved onto it does not change."""
        left_out = leave_one_out(case)
        for i in range(0, N, 3):
            moved = case.y.copy()
            moved[i] = left_out[i].reshape(moved[i].shape)
            predicted = case.fitted(moved).predict(X[i : i + 1])
            np.testing.assert_allclose(predicted.ravel(), left_out[i], rtol=1e-6, atol=1e-6 * np.abs(case.y).max())

    @pytest.mark.parametrize("case", REFITTED, ids=str)
    def test_leave_one_out_is_that_of_refits_where_the_space_says_exact(self, case):
        y, weights = case.y, case.weights

        def fit_predict(rows, target, w, new):
            weighted = {} if weights is None else {"sample_weight": w}
            return clone(case.model).fit(rows, target, **weighted).predict(new)

        residual = y.reshape(N, -1) - leave_one_out(case)
        expected = y - leave_one_out_predictions(fit_predict, X, y, weights).reshape(y.shape)
        np.testing.assert_allclose(residual, expected.reshape(N, -1), rtol=1e-6, atol=1e-7 * np.abs(y).max())


class TestWeights:
    def held(self, case):
        """Whether the geometry belongs to the very rows of its model, or counts rows whatever their weight."""
        geometry = case.geometry()
        by_batch = any(isinstance(getattr(part, "ridge", None), RidgePerBatch) for part in parts_of(geometry))
        return row_weights(geometry) is not None or by_batch or not hasattr(spaces_of(geometry.fit(X))[0], "ridge")

    def test_a_row_of_weight_0_counts_like_one_that_is_not_there(self, case):
        if self.held(case) or "landmarks" in str(case):
            return
        geometry = case.geometry()
        expected = measured(geometry.fit(X, W))
        more = geometry.fit(np.vstack([X, 3 * NEW]), np.append(W, np.zeros(len(NEW))))
        np.testing.assert_allclose(measured(more), expected, rtol=1e-6)

    def test_a_weight_of_two_counts_like_a_row_given_twice(self, case):
        if self.held(case) or "landmarks" in str(case):
            return
        geometry = case.geometry()
        expected = measured(geometry.fit(np.vstack([X, X[:20]])))
        weighted = geometry.fit(X, np.where(np.arange(N) < 20, 2.0, 1.0))
        np.testing.assert_allclose(measured(weighted), expected, rtol=1e-6)

    def test_equal_weights_are_a_ridge_divided(self, case):
        """h under weights c and ridge r is that under weights 1 and ridge r / c, over c: least squares shows it."""
        geometry = case.geometry()
        parts = parts_of(geometry)
        if self.held(case) or any(np.any(getattr(part, "ridge", 1.0) != 0.0) for part in parts):
            return
        one, four = (measured(geometry.fit(X, np.full(N, w))) for w in (1.0, 4.0))
        np.testing.assert_allclose(np.array(four) * 4, one, rtol=1e-8)


class TestObjects:
    def test_copies_of_geometry_and_space_measure_alike(self, case):
        geometry = case.geometry()
        space = geometry.fit(X, case.weights)
        expected = measured(space)
        for copied in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
            np.testing.assert_array_equal(measured(copied), expected)
        for copied in (pickle.loads(pickle.dumps(geometry)), copy.deepcopy(geometry), clone(geometry, safe=False)):
            np.testing.assert_array_equal(measured(copied.fit(X, case.weights)), expected)

    def test_parameters_set_after_the_geometry_was_read_do_not_change_it(self, case):
        if not isinstance(case, Case):
            return
        model = case.fitted()
        geometry = geometry_of(model)
        expected = measured(geometry.fit(X, case.weights))
        model.set_params(**{name: value for name, value in PARAMETERS.items() if name in model.get_params(deep=False)})
        np.testing.assert_array_equal(measured(geometry.fit(X, case.weights)), expected)


PARAMETERS = {
    "alpha": 99.0,
    "C": 99.0,
    "kernel": "linear",
    "l1_ratio": 0.9,
    "fit_intercept": False,
    "activation": "relu",
}
