"""Around networks: groups, likelihood ratios, joint boxes and distributions, against order statistics by hand."""

import copy
import pickle
from fractions import Fraction
from math import ceil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone, is_regressor
from sklearn.metrics import r2_score

from hatband import CalibrationWarning, ClassifierRatio, Groups, LeverageBins
from hatband.nn import (
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    LinearisedConformalRegressor,
    NeuralConformalRegressor,
    NoiseScale,
)
from nn.cases import dense_leverage, loader, network, phi, rows

LEVEL = Fraction(4, 5)


def spread(inputs):
    return 0.3 + inputs[:, 0].abs()


def network_with(seed, n_outputs=1):
    net = network(n_outputs)
    with torch.no_grad():
        net[0].weight += 0.3 * torch.randn(net[0].weight.shape, generator=torch.Generator().manual_seed(seed))
    return net


def last_layer(n_outputs=1, **settings):
    return LastLayerConformalRegressor(network(n_outputs), scale="leverage", confidence_level=LEVEL, **settings)


def noisy(n_outputs=1, **settings):
    scale = NoiseScale(spread)
    return LastLayerConformalRegressor(network(n_outputs), scale=scale, ridge=1.0, confidence_level=LEVEL, **settings)


def ensemble(n_outputs=1, **settings):
    nets = [network_with(seed, n_outputs) for seed in range(3)]
    return EnsembleConformalRegressor(nets, scale="leverage", confidence_level=LEVEL, **settings)


def neural(n_outputs=1, **settings):
    chosen = {"widths": (8,), "epochs": 3, "scale": "leverage", "random_state": 0, "confidence_level": LEVEL}
    return NeuralConformalRegressor(**chosen, **settings)


KINDS = {"last layer": last_layer, "noise": noisy, "ensemble": ensemble, "neural": neural}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def arrays(n, seed=0, n_outputs=None):
    """Rows as NumPy arrays, whose noise differs by group."""
    X, y = (part.double().numpy() for part in rows(n, seed, n_outputs))
    return X, y + (X[:, 1] > 0).reshape(-1, *[1] * (y.ndim - 1)) * y


def labels_of(X):
    return np.asarray(X)[:, 1] > 0


def threshold(scores, level=LEVEL):
    """The ceil((n + 1) level)-th smallest |score| of one output."""
    rank = ceil((len(scores) + 1) * level)
    return np.sort(np.abs(scores))[rank - 1] if rank <= len(scores) else np.inf


def weighted_threshold(scores, weights, own, level=LEVEL):
    """The smallest |score| at which the rows that are no larger weigh a share `level` of all, the new row included."""
    total = sum(map(Fraction, weights)) + Fraction(own)
    reached = Fraction(0)
    for i in np.argsort(np.abs(scores)):
        reached += Fraction(weights[i])
        if reached >= level * total:
            return abs(scores[i])
    return np.inf


def around(prediction, half):
    return np.stack([prediction - half, prediction + half], axis=-1)


# ---------------------------------------------------------------- regressors


def test_networks_are_regressors_to_scikit_learn(kind):
    X, y = arrays(120)
    model = kind().fit_train(X, y)

    assert is_regressor(model)
    assert is_regressor(LinearisedConformalRegressor(network()))
    assert model.score(X, y) == pytest.approx(r2_score(y, model.predict(X)))
    assert clone(model).get_params().keys() == model.get_params().keys()


def test_every_question_is_answered_of_the_same_band(kind):
    X, y = arrays(120)
    model = kind().fit_train(X, y).calibrate(*arrays(60, 1))
    prediction, interval = model.predict_interval(X)
    width = model.predict(X, return_width=True)[1]

    np.testing.assert_array_equal(model.predict(X, return_interval=True)[1], interval)
    np.testing.assert_allclose(interval, around(prediction, threshold(model.scores_[:, 0]) * width), rtol=1e-9)
    assert model.effective_sample_size_ == 60


# ---------------------------------------------------------------- groups


def test_groups_calibrate_with_their_own_scores(kind):
    (X, y), (X_cal, y_cal), (new, _) = arrays(120), arrays(90, 1), arrays(40, 2)
    model = kind().fit_train(X, y).calibrate(X_cal, y_cal)
    scores, label, new_label = model.scores_[:, 0], labels_of(X_cal), labels_of(new)
    limits = {group: threshold(scores[label == group]) for group in (False, True)}
    prediction, width = model.predict(new, return_width=True)
    expected = around(prediction, np.array([limits[group] for group in new_label]) * width)

    model.calibrate(X_cal, y_cal, groups=label)
    np.testing.assert_allclose(model.predict_interval(new, groups=new_label)[1], expected, rtol=1e-9)
    np.testing.assert_array_equal(model.scores_[:, 0], scores)
    by_function = kind(groups=labels_of).fit_train(X, y).calibrate(X_cal, y_cal)
    np.testing.assert_allclose(by_function.predict_interval(new)[1], expected, rtol=1e-9)


def test_rows_of_a_loader_have_their_labels_passed_with_them():
    (X, y), (X_cal, y_cal), (new, _) = rows(120), rows(90, 1), rows(40, 2)
    for kind in (last_layer, noisy, ensemble):
        model = kind().fit_train(loader(X, y)).calibrate(loader(X_cal, y_cal), groups=labels_of(X_cal))
        whole = kind(groups=labels_of).fit_train(X, y).calibrate(X_cal, y_cal)
        found = model.predict_interval(loader(new), groups=labels_of(new))[1]
        np.testing.assert_allclose(found, whole.predict_interval(new)[1], rtol=1e-6)
        with pytest.raises(ValueError, match=r"groups is a function of X.*DataLoader.*pass groups= with the rows"):
            kind(groups=labels_of).fit_train(X, y).calibrate(loader(X_cal, y_cal))
        with pytest.raises(ValueError, match=r"likelihood_ratio is a function of X.*come in batches"):
            kind(likelihood_ratio=labels_of).fit_train(loader(X, y)).calibrate(loader(X_cal, y_cal))


def test_labels_and_ratios_may_be_tensors_where_the_network_is(device):
    (X, y), (X_cal, y_cal), (new, _) = (tuple(part.to(device) for part in rows(n, n)) for n in (120, 90, 40))
    net = network().to(device)

    def intervals(placed):
        model = LastLayerConformalRegressor(net, scale="leverage", confidence_level=LEVEL).fit_train(X, y)
        model.calibrate(X_cal, y_cal, groups=placed(X_cal[:, 1] > 0), likelihood_ratio=placed(X_cal[:, 0].exp()))
        return model.predict_interval(new, groups=placed(new[:, 1] > 0), likelihood_ratio=placed(new[:, 0].exp()))[1]

    np.testing.assert_array_equal(intervals(lambda values: values), intervals(lambda values: values.cpu().numpy()))


def test_a_column_of_a_table_groups_a_perceptron():
    X, y = arrays(200)
    table = pd.DataFrame(X, columns=list("abcd")).assign(b=labels_of(X).astype(float))
    by_name = neural(groups="b").fit(table, y)
    held = by_name.calibration_indices_
    passed = neural().fit_train(table.drop(held), np.delete(y, held))
    passed.calibrate(table.iloc[held], y[held], groups=table["b"][held])
    given = neural().fit(table, y, groups=table["b"])

    intervals = [by_name.predict_interval(table)[1], given.predict_interval(table, groups=table["b"])[1]]
    np.testing.assert_array_equal(*intervals)
    assert set(by_name.calibration_.ranking.sizes) == {0.0, 1.0}
    assert passed.scores_.shape == by_name.scores_.shape


def test_bins_of_leverage_are_cut_at_the_leave_one_out_leverages_of_the_training_rows():
    (X, y), (X_cal, y_cal), (new, _) = arrays(200), arrays(120, 1), arrays(40, 2)
    for kind, nets in ((last_layer, [network()]), (ensemble, [network_with(seed) for seed in range(3)])):
        model = kind(groups=LeverageBins(3)).fit_train(X, y)
        members = getattr(model, "members_", [model])
        features = [phi(net, torch.as_tensor(X)) for net in nets]
        h = [
            dense_leverage(one, one, member.space_.ridge, "free") for one, member in zip(features, members, strict=True)
        ]
        left_out = np.mean([one / (1 - one) for one in h], axis=0)
        edges = np.quantile(left_out, [1 / 3, 2 / 3], method="lower")
        # Far enough apart that rounding of the features to float32 moves no row over an edge.
        label, new_label = (np.searchsorted(edges, model.leverage(part)) for part in (X_cal, new))
        passed = kind().fit_train(X, y).calibrate(X_cal, y_cal, groups=label)
        np.testing.assert_allclose(
            model.calibrate(X_cal, y_cal).predict_interval(new)[1],
            passed.predict_interval(new, groups=new_label)[1],
            rtol=1e-9,
        )


def test_leverage_is_read_only_where_groups_need_it(monkeypatch):
    (X, y), (X_cal, y_cal) = arrays(120), arrays(60, 1)
    model = LastLayerConformalRegressor(network(), scale="constant").fit_train(X, y)
    monkeypatch.setattr(type(model.space_), "leverage", lambda *_: pytest.fail("a leverage that nobody asked for"))

    assert model.calibrate(X_cal, y_cal, groups=labels_of(X_cal)).predict_interval(X, groups=labels_of(X))[1].shape


@pytest.mark.parametrize("symmetric", [True, False])
def test_covers_new_rows_of_every_group(kind, symmetric):
    (X, y), (X_cal, y_cal), (new, truth) = arrays(150), arrays(400, 1), arrays(2_000, 2)
    model = kind(groups=labels_of, symmetric=symmetric).fit_train(X, y).calibrate(X_cal, y_cal)
    lower, upper = model.predict_interval(new)[1].T
    inside = (lower <= truth) & (truth <= upper)
    for group in (False, True):
        members, count = labels_of(new) == group, int((labels_of(X_cal) == group).sum())
        # Ranks that are not covered, of count + 1: of |scores|, or of scores on both sides.
        if symmetric:
            missed = count + 1 - ceil((count + 1) * LEVEL)
        else:
            missed = 2 * (count + 1 - ceil((count + 1) * (1 + LEVEL) / 2))
        law = stats.betabinom(int(members.sum()), count + 1 - missed, missed)
        # False alarm: 1e-6 in each of 16 checks.
        assert law.ppf(5e-7) <= inside[members].sum() <= law.isf(5e-7)


def test_an_unseen_group_gets_its_policy(kind):
    (X, y), (X_cal, y_cal), (new, _) = arrays(120), arrays(60, 1), arrays(5, 2)
    model = kind().fit_train(X, y).calibrate(X_cal, y_cal, groups=["a"] * 60)
    with pytest.warns(CalibrationWarning, match="b"):
        assert np.isinf(model.predict_interval(new, groups=["b"] * 5)[1]).all()

    pooled = kind(groups=Groups(unseen="pooled")).fit_train(X, y).calibrate(X_cal, y_cal, groups=["a"] * 60)
    plain = kind().fit_train(X, y).calibrate(X_cal, y_cal)
    found = pooled.predict_interval(new, groups=["b"] * 5)[1]
    np.testing.assert_allclose(found, plain.predict_interval(new)[1], rtol=1e-9)


# ---------------------------------------------------------------- likelihood ratios


def test_scores_count_with_their_likelihood_ratio(kind):
    (X, y), (X_cal, y_cal), (new, _) = arrays(120), arrays(60, 1), arrays(20, 2)
    model = kind().fit_train(X, y).calibrate(X_cal, y_cal)
    weights, own = 1 + labels_of(X_cal) * 3.0, 1 + labels_of(new) * 3.0
    prediction, width = model.predict(new, return_width=True)
    limits = np.array([weighted_threshold(model.scores_[:, 0], weights, one) for one in own])

    model.calibrate(X_cal, y_cal, likelihood_ratio=weights)
    interval = model.predict_interval(new, likelihood_ratio=own)[1]
    np.testing.assert_allclose(interval, around(prediction, limits * width), rtol=1e-9)
    assert model.effective_sample_size_ == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    by_function = kind(likelihood_ratio=lambda X: 1 + labels_of(X) * 3.0).fit_train(X, y).calibrate(X_cal, y_cal)
    np.testing.assert_allclose(by_function.predict_interval(new)[1], interval, rtol=1e-9)


def test_a_likelihood_ratio_is_learned_from_training_rows_and_rows_to_come(kind):
    (X, y), (X_cal, y_cal), (new, _) = arrays(120), arrays(60, 1), arrays(20, 2)
    target = arrays(80, 3)[0] + 0.5
    model = kind(likelihood_ratio=ClassifierRatio()).fit_train(X, y, X_target=target).calibrate(X_cal, y_cal)
    ratio = ClassifierRatio().fit(X, target)
    passed = kind().fit_train(X, y).calibrate(X_cal, y_cal, likelihood_ratio=ratio.predict(X_cal))
    found = passed.predict_interval(new, likelihood_ratio=ratio.predict(new))[1]

    np.testing.assert_allclose(model.predict_interval(new)[1], found, rtol=1e-9)


# ---------------------------------------------------------------- several outputs at once


@pytest.mark.parametrize("with_validation", [True, False])
def test_a_joint_box_ranks_the_largest_score_in_units_of_held_out_scores(kind, with_validation):
    if kind is neural:
        pytest.skip("draws its own validation rows; see the next test")
    (X, y), (X_cal, y_cal), (new, _) = arrays(150, 0, 2), arrays(90, 1, 2), arrays(40, 2, 2)
    y, y_cal = y * [1.0, 10.0], y_cal * [1.0, 10.0]
    X_val, y_val = arrays(70, 4, 2)
    y_val = y_val * [1.0, 10.0]
    given = {"validation": (X_val, y_val)} if with_validation else {}
    model = kind(2).fit_train(X, y, **given).calibrate(X_cal, y_cal)
    prediction, width = model.predict(new, return_width=True)
    held, truth = (X_val, y_val) if with_validation else (X, y)
    at, size = model.predict(held, return_width=True)
    box = np.quantile(np.abs((truth - at) / size), float(LEVEL), axis=0)
    limit = threshold((np.abs(model.scores_) / box).max(axis=1))

    joint = kind(2, joint=True).fit_train(X, y, **given).calibrate(X_cal, y_cal)
    np.testing.assert_allclose(joint.predict_interval(new)[1], around(prediction, limit * box * width), rtol=1e-9)


def test_joint_boxes_cover_whole_rows(kind):
    (X, y), (X_cal, y_cal), (new, truth) = arrays(150, 0, 2), arrays(199, 1, 2), arrays(2_000, 2, 2)
    model = kind(2, joint=True).fit_train(X, y).calibrate(X_cal, y_cal)
    interval = model.predict_interval(new)[1]
    inside = ((interval[..., 0] <= truth) & (truth <= interval[..., 1])).all(axis=1).sum()
    law = stats.betabinom(2_000, 160, 40)

    # False alarm: 1e-6 for each kind.
    assert law.ppf(5e-7) <= inside <= law.isf(5e-7)


# ---------------------------------------------------------------- distributions


def test_a_distribution_has_the_atoms_prediction_plus_width_times_score(kind):
    (X, y), (X_cal, y_cal), (new, _) = arrays(120), arrays(59, 1), arrays(20, 2)
    model = kind().fit_train(X, y).calibrate(X_cal, y_cal)
    prediction, width = model.predict(new, return_width=True)
    atoms = np.sort(prediction[:, None] + width[:, None] * model.scores_[:, 0], axis=1)
    law = model.predictive_distribution(new)

    assert law.n_atoms == 59
    for p in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(law.quantile(p), atoms[:, ceil(Fraction(p) * 59) - 1], rtol=1e-9)
    np.testing.assert_allclose(law.cdf(prediction), (atoms <= prediction[:, None]).mean(axis=1), atol=1e-12)
    model.calibrate(X_cal, y_cal, groups=labels_of(X_cal))
    with pytest.raises(ValueError, match="scores of equal weight"):
        model.predictive_distribution(new)


def test_the_distribution_of_a_linearised_network_is_that_of_its_own_intervals():
    (X, y), (new, _) = rows(40), rows(6, 1)
    model = LinearisedConformalRegressor(network(), ridge=1.0, confidence_level=0.8).fit(X, y)
    _, interval = model.predict_interval(new)
    law = model.predictive_distribution(new)

    assert law.n_atoms == 40
    # Both read the same refits: the ranks of the ends of an interval of level 0.8 are 0.8 of 41 apart.
    ranks = np.stack([law.cdf(end) * 40 for end in interval.T], axis=1)
    assert (np.abs(np.diff(ranks)[:, 0] - 0.8 * 41) <= 2).all()
    assert np.abs(law.quantile(0.5) - model.predict(new)).max() < np.diff(interval).max()
    with pytest.raises(ValueError, match="has neither groups nor weights"):
        model.predict_interval(new, groups=[0] * 6)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("with_noise", [True, False])
def test_weights_of_training_rows_and_of_noise_multiply(with_noise):
    X, y = rows(80)
    weight = np.arange(80) % 3.0
    model = (noisy() if with_noise else last_layer(ridge=1.0)).fit_train(X, y, weight)
    index = np.repeat(np.arange(80), weight.astype(int))
    same = (noisy() if with_noise else last_layer(ridge=1.0)).fit_train(X[index], y[index])

    new = rows(9, 1)[0]
    np.testing.assert_allclose(*(one.predict(new, return_width=True)[1] for one in (model, same)), rtol=1e-6)
    with pytest.raises(ValueError, match="only with an array X"):
        noisy().fit_train(loader(X, y), None, weight)


# ---------------------------------------------------------------- state, files


def test_what_fails_leaves_the_calibration_as_it_was(kind):
    (X, y), (X_cal, y_cal) = arrays(120), arrays(60, 1)
    model = kind().fit_train(X, y).calibrate(X_cal, y_cal)
    before = model.calibration_
    for wrong in ({"groups": [None] * 60}, {"likelihood_ratio": [-1.0] * 60}, {"groups": ["a"] * 3}):
        with pytest.raises(ValueError, match=r"group|ratio|inconsistent"):
            model.calibrate(X_cal, y_cal, **wrong)
        assert model.calibration_ is before
    for passed in ({"groups": labels_of(X)}, {"likelihood_ratio": np.ones(120)}):
        with pytest.raises(ValueError, match="calibration had none"):
            model.predict_interval(X, **passed)
    model.calibrate(X_cal, y_cal, groups=labels_of(X_cal))
    with pytest.raises(ValueError, match="groups"):
        model.predict_interval(X)


def test_an_interrupt_in_training_leaves_the_model_as_it_was(monkeypatch):
    (X, y), (X_cal, y_cal) = arrays(120), arrays(60, 1)
    for kind in (last_layer, noisy, ensemble):
        model = kind(groups=LeverageBins(2)).fit_train(X, y).calibrate(X_cal, y_cal)
        before = dict(vars(model))
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "_planned", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                model.fit_train(X[:50], y[:50])
        assert vars(model) == before


def test_grouped_models_pickle_and_copy(kind):
    (X, y), (X_cal, y_cal) = arrays(120), arrays(60, 1)
    model = kind(groups=labels_of).fit_train(X, y).calibrate(X_cal, y_cal)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.predict_interval(X)[1], model.predict_interval(X)[1])


FILES = {
    "last layer": (lambda path: path / "model.safetensors", lambda kind: {"module": network(2)}),
    "ensemble": (lambda path: path, lambda kind: {"modules": [network(2) for _ in range(3)]}),
    "neural": (lambda path: path, lambda kind: {}),
}


@pytest.mark.parametrize("name", FILES)
def test_joint_calibrations_are_saved_and_groups_are_refused(name, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    place, modules = FILES[name]
    (X, y), (X_cal, y_cal) = arrays(150, 0, 2), arrays(90, 1, 2)
    model = KINDS[name](2, joint=True).fit_train(X, y).calibrate(X_cal, y_cal)
    model.save(place(tmp_path))
    again = type(model).load(place(tmp_path), **modules(name))

    np.testing.assert_allclose(again.predict_interval(X)[1], model.predict_interval(X)[1], rtol=1e-6)
    assert again.joint is True
    # Calibration goes on after loading, by groups too.
    again.calibrate(X_cal, y_cal, groups=labels_of(X_cal))
    with pytest.raises(ValueError, match=r"scores of equal weight.*calibrate by groups after loading"):
        again.save(place(tmp_path))
    with pytest.raises(ValueError, match=r"scores of equal weight"):
        KINDS[name](2, groups=LeverageBins(2)).fit_train(X, y).save(place(tmp_path))
