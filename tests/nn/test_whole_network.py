"""The leverage of all parameters of a network: exact by its Gram matrix, from above by a few directions of it."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader

from hatband.nn import (
    LastLayerConformalRegressor,
    LinearisedConformalRegressor,
    LowRankTangentGeometry,
    TangentGeometry,
    WholeNetwork,
    all_reduce,
)
from nn.cases import WIDTH, dense_leverage, gradients, loader, network, rows
from sweeps import sweep

RIDGE = 0.3
N_PARAMETERS = 4 * WIDTH + WIDTH + WIDTH + 1


def few(rank: int, **parameters) -> WholeNetwork:
    return WholeNetwork(exact_up_to=0, rank=rank, **parameters)


def measured(net, X, layer="all", **parameters) -> LastLayerConformalRegressor:
    parameters = {"ridge": RIDGE, "scale": "leverage"} | parameters
    return LastLayerConformalRegressor(net, layer, **parameters).fit_train(X)


@pytest.fixture
def double(device):
    return network(dtype=torch.float64).to(device)


class TestExact:
    @pytest.mark.parametrize("n", [30, 300], ids=["more parameters than rows", "more rows than parameters"])
    @pytest.mark.parametrize("penalise_bias", [False, True])
    @pytest.mark.parametrize("ridge", [1e-2, 1.0, "auto"])
    def test_is_the_dense_formula(self, double, n, penalise_bias, ridge):
        X, new = rows(n)[0].double(), 5 * rows(50, seed=1)[0].double()
        intercept = "none" if penalise_bias else "free"

        model = measured(double, loader(X), ridge=ridge, penalise_bias=penalise_bias)

        train = gradients(double, X)
        centred = train if penalise_bias else train - train.mean(axis=0)
        expected = 1e-2 * (centred**2).sum() / min(n, N_PARAMETERS) if ridge == "auto" else ridge
        assert model.space_.ridge == pytest.approx(expected, rel=1e-12)
        answer = dense_leverage(train, gradients(double, new), expected, intercept)
        np.testing.assert_allclose(model.leverage(new), answer, rtol=1e-9)

    def test_agrees_with_a_jacobian_taken_in_one_piece(self, double):
        X, new = (rows(60, seed)[0].to(double[0].weight) for seed in (0, 1))
        names, weights = zip(*double.named_parameters(), strict=True)

        def jacobian(part):
            def outputs(*values):
                return torch.func.functional_call(double, dict(zip(names, values, strict=True)), (part,))[:, 0]

            found = torch.autograd.functional.jacobian(outputs, weights)
            return torch.cat([value.reshape(len(part), -1) for value in found], dim=1).cpu().numpy()

        answer = dense_leverage(jacobian(X), jacobian(new), RIDGE, "free")
        np.testing.assert_allclose(measured(double, X).leverage(new), answer, rtol=1e-9)

    def test_is_that_of_the_geometry_and_of_full_conformal_prediction(self, double):
        (X, y), new = rows(60), rows(7, seed=1)[0]
        seen = measured(double, X).leverage(new)

        space = TangentGeometry(double, RIDGE).fit(X)
        np.testing.assert_allclose(space.leverage(space.features(new)), seen, rtol=1e-9)
        linearised = LinearisedConformalRegressor(double, ridge=RIDGE).fit(X, y)
        np.testing.assert_allclose(linearised.leverage(new), seen, rtol=1e-9)

    @pytest.mark.parametrize("penalise_bias", [False, True])
    def test_of_one_linear_layer_is_that_of_the_last_layer(self, device, penalise_bias):
        net, X, new = nn.Linear(4, 1).double().to(device), rows(60)[0], rows(20, 1)[0]

        whole, last = (measured(net, X, layer, penalise_bias=penalise_bias).leverage(new) for layer in ("all", None))

        np.testing.assert_allclose(whole, last, rtol=1e-10)

    def test_is_at_least_that_of_the_last_layer(self, double):
        X, new = rows(60)[0], rows(20, 1)[0]
        assert (measured(double, X).leverage(new) >= measured(double, X, None).leverage(new)).all()

    def test_does_not_depend_on_how_rows_are_batched(self, double):
        X, new = rows(70)[0], rows(9, 1)[0]
        expected = measured(double, X).leverage(new)
        for size in (1, 17, 70):
            np.testing.assert_allclose(measured(double, loader(X, batch_size=size)).leverage(new), expected, rtol=1e-9)

    def test_of_a_network_in_single_precision_is_taken_in_double(self, net):
        X, new = rows(200)[0], rows(20, 1)[0]
        model = measured(net, X)
        seen, prediction = model.leverage(new), model.predict(new)

        with torch.no_grad():
            np.testing.assert_array_equal(prediction, net(new.to(net[0].weight)).double().cpu().numpy())
        train, others = (gradients(net.double(), part) for part in (X, new))
        np.testing.assert_allclose(seen, dense_leverage(train, others, RIDGE, "free"), rtol=1e-9)

    def test_of_parts_that_are_merged_is_that_of_all_rows(self, double):
        X, y = rows(60)
        other = LastLayerConformalRegressor(double, "all", ridge=RIDGE, scale="leverage").fit_train(X[:20], y[:20])
        merged = LastLayerConformalRegressor(double, "all", ridge=RIDGE, scale="leverage").fit_train(
            X[20:], y[20:], merge=other.space_.statistics.merge
        )
        np.testing.assert_allclose(merged.leverage(X), measured(double, X).leverage(X), rtol=1e-9)


class TestLowRank:
    @pytest.mark.parametrize("n", [30, 300])
    @pytest.mark.parametrize("penalise_bias", [False, True])
    def test_with_all_directions_is_exact(self, double, n, penalise_bias):
        X, new = rows(n)[0], 5 * rows(20, 1)[0]

        found, exact = (measured(double, X, layer, penalise_bias=penalise_bias) for layer in (few(N_PARAMETERS), "all"))

        np.testing.assert_allclose(found.leverage(new), exact.leverage(new), rtol=1e-9)
        assert found.space_.sketch.captured == pytest.approx(1.0)

    # However bad the directions are: no iteration refines those that chance gave.
    @pytest.mark.parametrize("iterations", [0, 1, 3])
    @pytest.mark.parametrize("rank", [1, 5, 20, 60])
    def test_is_never_below_the_exact_one(self, double, rank, iterations):
        X = rows(200)[0]
        new = torch.cat([X, 5 * rows(50, 1)[0], 100 * rows(50, 2)[0]])

        found = measured(double, X, few(rank, iterations=iterations), ridge=1e-3).leverage(new)

        assert (found >= measured(double, X, ridge=1e-3).leverage(new) * (1 - 1e-9)).all()

    def test_comes_down_to_the_exact_one_as_directions_are_added(self, double):
        X, new = rows(200)[0], 2 * rows(100, 1)[0]
        exact = measured(double, X).leverage(new)

        ranks = (2, 5, 10, 20, 40, 60)
        errors = [(measured(double, X, few(rank)).leverage(new) / exact - 1).max() for rank in ranks]

        assert (np.diff(errors) < 0).all()
        assert errors[-1] < 1e-3 * errors[0]

    def test_of_leading_directions_is_the_formula_on_eigenvectors(self, double):
        X, new = rows(200)[0], 2 * rows(20, 1)[0]
        found = measured(double, X, few(8, iterations=12)).leverage(new)

        train = gradients(double, X.double())
        K = gradients(double, new.double()) - train.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(train.T, bias=True) * len(X))
        inside = K @ vectors[:, -8:]
        missed = (K**2).sum(axis=1) - (inside**2).sum(axis=1)
        answer = 1 / len(X) + (inside**2 / (values[-8:] + RIDGE)).sum(axis=1) + missed / RIDGE
        np.testing.assert_allclose(found, answer, rtol=1e-6)

    @pytest.mark.parametrize("penalise_bias", [False, True])
    def test_ridge_by_default_is_that_of_the_exact_one_whatever_the_order_of_the_rows(self, double, penalise_bias):
        X = rows(100)[0]
        # In order, so that the first batch is far from the mean.
        batches = loader(X[X[:, 0].argsort()])
        settings = {"ridge": "auto", "penalise_bias": penalise_bias}
        found, exact = (measured(double, batches, layer, **settings).space_ for layer in (few(5), "all"))
        assert found.ridge == pytest.approx(exact.ridge, rel=1e-12)
        assert (found.default_ridge, exact.default_ridge) == (found.ridge, exact.ridge)

    @pytest.mark.parametrize("penalise_bias", [False, True])
    def test_of_rows_in_batches_is_that_of_all_at_once(self, double, penalise_bias):
        X, new = rows(100)[0], rows(20, 1)[0]
        batches = loader(X[X[:, 0].argsort()])
        found, whole = (measured(double, data, few(8), penalise_bias=penalise_bias) for data in (batches, X))
        np.testing.assert_allclose(found.leverage(new), whole.leverage(new), rtol=1e-9)

    def test_grows_where_the_network_has_not_been(self, device):
        # Under a seed: of 40 draws, 3 have a row that hardly any unit answers, however far out it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1)).to(device)
        X = rows(100)[0]
        for rank in (1, 10):
            model = measured(net, X, few(rank), ridge="auto")
            assert model.leverage(1_000 * X).min() > model.leverage(X).max()

    def test_is_the_same_for_the_same_seed(self, double):
        X = rows(100)[0]
        first, again, other = (measured(double, X, few(5, random_state=seed)).leverage(X) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_needs_a_ridge(self, double):
        with pytest.raises(ValueError, match="ridge must be > 0"):
            measured(double, rows(30)[0], few(5), ridge=0.0)

    def test_has_no_gram_matrix_to_merge(self, double):
        with pytest.raises(ValueError, match=r"73 parameters. Pass layer=WholeNetwork\(exact_up_to"):
            LastLayerConformalRegressor(double, few(5), scale="leverage").fit_train(rows(30)[0], merge=all_reduce)


class TestLowRankGeometry:
    def test_is_that_of_the_regressor(self, double):
        X, new = rows(100)[0], rows(20, 1)[0]
        space = LowRankTangentGeometry(double, RIDGE, rank=7).fit(X)
        np.testing.assert_allclose(
            space.leverage(space.features(new)), measured(double, X, few(7)).leverage(new), rtol=1e-9
        )

    @pytest.mark.parametrize("fit_intercept", [False, True])
    @pytest.mark.parametrize("ridge", ["auto", 0.5])
    def test_with_all_directions_is_the_exact_geometry(self, double, ridge, fit_intercept):
        X, new, weights = rows(60)[0], rows(9, 1)[0], np.random.default_rng(0).integers(0, 4, 60).astype(float)
        kinds = (LowRankTangentGeometry, TangentGeometry)
        for weight in (None, weights) if ridge != "auto" else (None,):
            found, exact = (kind(double, ridge, fit_intercept).fit(X, weight) for kind in kinds)
            assert found.ridge == pytest.approx(exact.ridge, rel=1e-12)
            features, others = found.features(new), exact.features(new)
            for verb in ("leverage", "sampling_leverage"):
                np.testing.assert_allclose(
                    getattr(found, verb)(features), getattr(exact, verb)(others), rtol=1e-7, atol=1e-12
                )
            np.testing.assert_allclose(
                found.cross_leverage(features, features), exact.cross_leverage(others, others), rtol=1e-7, atol=1e-9
            )

    def test_asks_for_the_rows_that_it_does_not_keep(self, double):
        space = LowRankTangentGeometry(double, RIDGE, rank=5).fit(rows(30)[0])
        with pytest.raises(ValueError, match="others=space"):
            space.cross_leverage(space.features(rows(3)[0]))

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"ridge": 0.0}, "> 0"),
            ({"ridge": "loo"}, "no targets"),
            ({"rank": 0}, "rank"),
            ({"iterations": -1}, "iter"),
        ],
    )
    def test_refuses_invalid_numbers(self, double, parameters, message):
        with pytest.raises(ValueError, match=message):
            LowRankTangentGeometry(double, **parameters).fit(rows(30)[0])


class TestIntervals:
    @sweep(60, 200)
    @pytest.mark.parametrize("layer", ["all", few(5)], ids=["exact", "low rank"])
    def test_hold_with_the_exact_probability_over_splits(self, layer, repetitions):
        net = network()
        model = LastLayerConformalRegressor(net, layer, scale="leverage", confidence_level=0.8).fit_train(rows(100)[0])
        X, y = rows(20 * repetitions, seed=5)

        held = 0
        for part in range(0, len(X), 20):
            model.calibrate(X[part : part + 19], y[part : part + 19])
            lower, upper = model.predict_interval(X[part + 19 : part + 20])[1][0]
            held += bool(lower <= y[part + 19] <= upper)

        # 16 of 20 ranks: binomial. False alarms: 1 in 10,000; the seeds are fixed.
        law = stats.binom(repetitions, 16 / 20)
        assert law.ppf(5e-5) <= held <= law.ppf(1 - 5e-5)

    @pytest.mark.parametrize("layer", ["all", few(10)], ids=["exact", "low rank"])
    def test_learn_their_shape_from_validation_rows(self, net, layer):
        X, y = rows(100)
        model = LastLayerConformalRegressor(net, layer, scale="strength").fit_train(
            loader(X, y), validation=loader(*rows(60, 1))
        )
        assert model.residuals_from_ == "validation rows"
        assert model.calibrate(loader(*rows(40, 2))).predict_interval(X)[1].shape == (100, 2)

    @pytest.mark.parametrize("layer", ["all", few(10)], ids=["exact", "low rank"])
    def test_learn_their_shape_from_unseen_rows_with_the_leverage_of_leaving_them_out(self, net, layer):
        X, y = rows(200)
        model = LastLayerConformalRegressor(net, layer, scale="strength", fit_train_rows="unseen", ridge=0.1)
        space = model.fit_train(X, y).space_
        missed = np.zeros(200)
        if layer != "all":
            centred = gradients(net, X) - gradients(net, X).mean(axis=0)
            kept = torch.as_tensor(space.sketch.vectors).cpu().numpy()
            missed = np.square(centred - centred @ kept @ kept.T).sum(axis=1) / 0.1
        h = model.leverage(X) - missed
        np.testing.assert_allclose(model.learned_from_.rows.leverage, h / (1 - h) + missed, rtol=1e-5)

    def test_learn_from_few_directions_what_new_rows_have(self, net):
        (X, y), new = rows(300), rows(300, 1)[0]
        model = LastLayerConformalRegressor(net, few(10), scale="strength", fit_train_rows="unseen", ridge=1e-2)
        model.fit_train(X, y)
        assert np.median(model.leverage(X)) > 1

        held_out, unseen = np.median(model.learned_from_.rows.leverage), np.median(model.leverage(new))
        assert unseen / 1.5 < held_out < 1.5 * unseen

    def test_learn_nothing_from_rows_that_the_network_was_trained_on(self, net):
        with pytest.warns(UserWarning, match="unseen"):
            model = LastLayerConformalRegressor(net, "all").fit_train(*rows(50))
        assert model.residuals_from_ is None

    def test_come_from_loaders_of_dicts_and_of_images(self, device):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.codes, self.body = nn.Embedding(5, 3), nn.Sequential(nn.Flatten(), nn.Linear(4, 1))

            def forward(self, image, code):
                return self.body(image) + self.codes(code).sum(1, keepdim=True)

        images, codes, (_, y) = torch.randn(40, 1, 2, 2), torch.arange(40) % 5, rows(40)
        items = [({"image": image, "code": code}, value) for image, code, value in zip(images, codes, y, strict=True)]

        model = measured(Named().to(device), DataLoader(items, batch_size=7), ridge=1.0)

        one_hot = np.repeat(np.eye(5)[codes.numpy()], 3, axis=1)
        dense = np.column_stack([one_hot, images.reshape(40, -1).double().numpy(), np.ones(40)])
        np.testing.assert_allclose(
            model.leverage(DataLoader(items, batch_size=9)), dense_leverage(dense, dense, 1.0, "free"), rtol=1e-7
        )
        assert model.calibrate(DataLoader(items, batch_size=11)).predict(DataLoader(items, batch_size=40)).shape == (
            40,
        )
