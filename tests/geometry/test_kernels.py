"""Kernels: the posterior variance of a Gaussian process in units of its noise, and k(x,x)/ridge far from the data."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVR

from geometry.cases import ALPHAS, FAR, KERNEL_RIDGES, NEW, PROCESSES, VECTOR_MACHINES, Case, N, W, X, Y, y
from hatband.geometry import KernelGeometry, NystroemGeometry, PairwiseKernel, geometry_of
from hatband.geometry.composite import PerOutputSpace
from hatband.geometry.kernels import MatrixKernel
from hatband.geometry.nystroem import DualOrNystroem, NystroemSpace
from oracles import dense_cross, dense_kernel_cross, features_of
from rounding import EPS, through_kernel

GAUSS = PairwiseKernel("rbf", {"gamma": 0.1})


def plain_rbf(rows, others, gamma=0.1):
    return np.exp(-gamma * ((rows[:, None] - others[None]) ** 2).sum(axis=-1))


def everything(kernel, rows):
    return kernel(np.vstack([X, rows]), np.vstack([X, rows]))


def smoother(kernel, rows, ridge, weights, fit_intercept):
    """h(x, z) between rows: features whose products are the kernel, then the formula for features."""
    phi = features_of(everything(kernel, rows))
    return dense_cross(phi[:N], phi, phi, ridge, weights, fit_intercept=fit_intercept)


def dual_leverage(kernel, rows, ridges):
    """(k(x,x) - k_x'(K + diag(ridges))^-1 k_x), not divided by a ridge: a posterior variance."""
    against = kernel(rows, X)
    diagonal = np.diag([kernel(row[None], row[None])[0, 0] for row in rows])
    return dense_kernel_cross(kernel(X, X), against, against, diagonal, ridge=1.0, weights=1 / ridges).diagonal()


@pytest.mark.parametrize("case", PROCESSES, ids=str)
def test_leverage_of_a_gaussian_process_is_its_posterior_variance_over_its_noise(case):
    model = case.fitted()
    space = geometry_of(model).fit(X)
    noise = model.alpha + model.kernel_.diag(X) - np.diag(model.kernel_(X, X))
    expected = dual_leverage(model.kernel_, NEW, np.broadcast_to(noise, N)) / noise.mean()
    F = space.features(NEW)
    close = through_kernel(model.kernel_(X, X), np.min(noise))
    scale = model.kernel_.diag(NEW).max() / noise.mean()
    np.testing.assert_allclose(space.leverage(F), expected, rtol=0, atol=close * scale)
    np.testing.assert_allclose(space.leverages(F)[0], space.leverage(F), rtol=close)
    assert space.ridge == pytest.approx(noise.mean(), rel=10 * EPS)
    assert geometry_of(model).exactness == space.exactness == case.exactness


@pytest.mark.parametrize("case", KERNEL_RIDGES, ids=str)
def test_leverage_of_kernel_ridge_is_the_dense_formula(case):
    model = case.fitted()
    space = geometry_of(model).fit(X, case.weights)
    F = space.features(NEW)
    ridges = np.unique(model.alpha)
    w = np.ones(N) if case.weights is None else case.weights
    kernel = model._get_kernel
    expected = np.stack([dual_leverage(kernel, NEW, ridge / w) / ridge for ridge in ridges], axis=-1)
    measured = space.leverage(F).reshape(len(NEW), -1)
    # Values of the kernel are rounded relative to its size, and divided by the ridge.
    scale = max(1.0, np.max([kernel(row[None], row[None]) for row in NEW]) / ridges.min())
    close = through_kernel(kernel(X, X), ridges.min(), w)
    np.testing.assert_allclose(measured, expected, rtol=0, atol=close * scale)


@pytest.mark.parametrize("case", KERNEL_RIDGES, ids=str)
def test_cross_leverage_to_the_training_rows_predicts_as_kernel_ridge_does(case):
    model = case.fitted()
    space = geometry_of(model).fit(X, case.weights)
    w = np.ones(N) if case.weights is None else case.weights
    target = w[:, None] * case.y.reshape(N, -1)
    cross = space.cross_leverage(space.features(NEW))
    prediction = np.einsum("mnq,nq->mq", cross, target) if cross.ndim == 3 else cross @ target
    kernel = model._get_kernel(X, X)
    reach = np.abs(model._get_kernel(NEW, X)).max() / np.diag(kernel).min()
    close = through_kernel(kernel, np.min(model.alpha), w) * np.abs(target).max() * max(1.0, reach)
    expected = model.predict(NEW).reshape(prediction.shape)
    np.testing.assert_allclose(prediction, expected, rtol=0, atol=close)


@pytest.mark.parametrize("fit_intercept", [False, True], ids=["plain", "intercept"])
@pytest.mark.parametrize("weights", [None, W], ids=["unweighted", "weighted"])
def test_kernel_space_agrees_with_its_features_in_every_form(weights, fit_intercept):
    expected = smoother(plain_rbf, NEW, 0.5, weights, fit_intercept)
    space = KernelGeometry(GAUSS, 0.5, fit_intercept).fit(X, weights)
    F, own = space.features(NEW), space.features(X)
    w = np.ones(N) if weights is None else weights
    close = {"rtol": 0, "atol": through_kernel(plain_rbf(X, X), 0.5, weights) / 0.5}
    np.testing.assert_allclose(space.leverage(F), np.diag(expected)[N:], **close)
    np.testing.assert_allclose(space.sampling_leverage(F), (expected[N:, :N] ** 2) @ w, **close)
    np.testing.assert_allclose(space.leverages(F), [space.leverage(F), space.sampling_leverage(F)], **close)
    np.testing.assert_allclose(space.cross_leverage(F), expected[N:, :N], **close)
    np.testing.assert_allclose(space.cross_leverage(F, own), expected[N:, :N], **close)
    np.testing.assert_allclose(space.cross_leverage(F, F.take(slice(4))), expected[N:, N : N + 4], **close)
    assert (space.ridge, space.n_samples) == (0.5, N)


def test_outputs_with_their_own_ridge_have_their_own_leverage():
    model = KernelRidge(alpha=ALPHAS, kernel="rbf", gamma=0.1).fit(X, Y)
    space = geometry_of(model).fit(X)
    assert isinstance(space, PerOutputSpace)
    F = space.features(NEW)
    for j, ridge in enumerate(ALPHAS):
        alone = KernelGeometry(GAUSS, ridge).fit(X)
        np.testing.assert_array_equal(space.leverage(F)[:, j], alone.leverage(F))
        np.testing.assert_array_equal(space.cross_leverage(F)[..., j], alone.cross_leverage(F))


STATIONARY = [
    Case(KernelRidge(alpha=0.5, kernel="rbf", gamma=0.1)),
    Case(GaussianProcessRegressor(2.0 * RBF(1.0) + WhiteKernel(0.2), alpha=0.05, optimizer=None)),
    Case(SVR(C=4.0, gamma=0.1)),
]


@pytest.mark.parametrize("case", STATIONARY, ids=str)
def test_leverage_far_from_the_data_tends_to_the_prior_variance_over_the_ridge_and_not_to_zero(case):
    model = case.fitted()
    space = geometry_of(model).fit(X)
    F = space.features(FAR[None])
    prior = space.kernel.diagonal(F.values)[0] / space.ridge
    # With an intercept the prior variance adds to that of the mean.
    floor = space.leverage(F)[0] - prior
    assert floor == pytest.approx(0, abs=1e-9 * prior) if not space.factor.fit_intercept else 0 < floor < prior
    assert space.leverage(F)[0] >= space.leverage(space.features(X)).max()
    if not space.factor.fit_intercept:
        assert space.sampling_leverage(F)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("case", VECTOR_MACHINES, ids=str)
def test_support_vector_machine_has_its_kernel_with_ridge_one_over_c(case):
    model = case.fitted()
    space = geometry_of(model).fit(X, case.weights)
    gamma = {"scale": 1 / (X.shape[1] * X.var()), "auto": 1 / X.shape[1]}[model.gamma]
    kernel = PairwiseKernel(model.kernel, {"gamma": gamma, "degree": model.degree, "coef0": model.coef0})
    same = KernelGeometry(kernel, 1 / model.C, fit_intercept=True).fit(X, case.weights)
    F = space.features(NEW)
    close = through_kernel(kernel(X, X), 1 / model.C, case.weights)
    np.testing.assert_allclose(space.leverage(F), same.leverage(F), rtol=close)
    assert space.exactness == "none"
    assert space.ridge == 1 / model.C


def test_callable_kernels_are_rebuilt_as_each_model_calls_them():
    def of_rows(x, z, gamma=0.1):
        return np.exp(-gamma * ((x - z) ** 2).sum())

    ridge = KernelRidge(alpha=0.5, kernel=of_rows, kernel_params={"gamma": 0.1}).fit(X, y)
    machine = SVR(C=2.0, kernel=plain_rbf).fit(X, y)
    expected, close = KernelGeometry(GAUSS, 0.5).fit(X), through_kernel(plain_rbf(X, X), 0.5)
    F = expected.features(NEW)
    np.testing.assert_allclose(geometry_of(ridge).fit(X).leverage(F), expected.leverage(F), rtol=close)
    expected = KernelGeometry(GAUSS, 0.5, fit_intercept=True).fit(X)
    np.testing.assert_allclose(geometry_of(machine).fit(X).leverage(F), expected.leverage(F), rtol=close)
    assert isinstance(geometry_of(machine).kernel, MatrixKernel)


@pytest.mark.parametrize("model", [KernelRidge(kernel="precomputed"), SVR(kernel="precomputed")], ids=repr)
def test_precomputed_kernel_is_refused_with_what_to_do(model):
    with pytest.raises(ValueError, match=r"needs k\(x, x\).*Pass the kernel by name or as a callable"):
        geometry_of(model.fit(X @ X.T, y))


def test_noise_of_each_row_belongs_to_the_rows_of_the_model():
    noise = np.linspace(0.1, 2, N)
    model = GaussianProcessRegressor(RBF(2.0), alpha=noise, optimizer=None).fit(X, y)
    with pytest.raises(ValueError, match=f"its own {N} training rows.*got 10 rows"):
        geometry_of(model).fit(X[:10])
    noise[4] = 0.0
    with pytest.raises(ValueError, match=r"row 4 has alpha 0"):
        geometry_of(model.set_params(alpha=noise).fit(X, y))


def test_process_over_words_is_measured_on_words():
    class Overlap(RBF):
        """Share of letters in common."""

        requires_vector_input = False

        def __call__(self, X, Y=None, eval_gradient=False):
            others = X if Y is None else Y
            return np.array([[len(set(a) & set(b)) / len(set(a) | set(b)) for b in others] for a in X])

        def diag(self, X):
            return np.ones(len(X))

    words = np.array(["hat", "band", "hatband", "leverage", "ridge"])
    model = GaussianProcessRegressor(Overlap(), alpha=0.5, optimizer=None).fit(words, np.arange(5.0))
    space = geometry_of(model).fit(words)
    h = space.leverage(space.features(np.array(["xyz", "hat"])))
    assert h[0] == pytest.approx(2.0)
    assert h[1] < 1.0


def test_sparse_rows_have_the_leverage_of_dense_ones():
    thin = np.where(np.abs(X) > 1, X, 0.0)
    model = KernelRidge(alpha=0.5, kernel="rbf").fit(sparse.csr_array(thin), y)
    space, dense = geometry_of(model).fit(sparse.csr_array(thin)), geometry_of(model).fit(thin)
    close = through_kernel(model._get_kernel(thin, thin), 0.5)
    np.testing.assert_allclose(
        space.leverage(space.features(sparse.csr_array(NEW))), dense.leverage(dense.features(NEW)), rtol=close
    )
    assert space.inputs(space.features(sparse.csr_array(NEW))).shape == NEW.shape


@pytest.mark.parametrize("fit_intercept", [False, True], ids=["plain", "intercept"])
@pytest.mark.parametrize("weights", [None, W], ids=["unweighted", "weighted"])
def test_nystroem_with_every_row_a_landmark_is_the_exact_kernel(weights, fit_intercept):
    exact = KernelGeometry(GAUSS, 0.5, fit_intercept).fit(X, weights)
    space = NystroemGeometry(GAUSS, 0.5, fit_intercept).fit(X, weights)
    for rows in (X, NEW, FAR[None]):
        F = space.features(rows)
        np.testing.assert_allclose(space.leverages(F), exact.leverages(F), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(space.leverage(F), space.leverages(F)[0], rtol=1e-12)
        np.testing.assert_allclose(space.sampling_leverage(F), space.leverages(F)[1], rtol=1e-12, atol=1e-300)
    F = space.features(NEW)
    np.testing.assert_allclose(space.cross_leverage(F, F), exact.cross_leverage(F, F), atol=1e-7)


def test_nystroem_counts_what_landmarks_cannot_express_as_unseen():
    space = NystroemGeometry(GAUSS, 0.5, landmarks=10).fit(X)
    F = space.features(np.vstack([FAR, X]))
    h = space.leverage(F)
    assert h[0] == pytest.approx(1 / 0.5)
    assert (h[1:] < h[0]).all()
    assert space.sampling_leverage(F)[0] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r"keeps its landmarks only; pass others"):
        space.cross_leverage(F)


def test_coinciding_landmarks_do_no_harm():
    twice = np.vstack([X, X])
    space = NystroemGeometry(GAUSS, 0.5).fit(twice)
    exact = KernelGeometry(GAUSS, 0.5).fit(twice)
    F = space.features(NEW)
    np.testing.assert_allclose(space.leverage(F), exact.leverage(F), rtol=1e-7)


def test_landmarks_are_drawn_alike_each_time_and_by_the_seed_of_the_geometry():
    draws = [NystroemGeometry(GAUSS, 0.5, landmarks=10, random_state=seed).fit(X) for seed in (0, 0, 1)]
    rows = [space.landmark_map.landmarks for space in draws]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])


def test_dual_gives_way_to_landmarks_beyond_its_rows():
    small, large = (DualOrNystroem(GAUSS, 0.5, dual_rows=rows).fit(X) for rows in (N, N - 1))
    assert not isinstance(small, NystroemSpace)
    assert isinstance(large, NystroemSpace)
    F = small.features(NEW)
    np.testing.assert_allclose(small.leverage(F), large.leverage(F), rtol=1e-7)


def test_landmarks_need_a_ridge():
    with pytest.raises(ValueError, match=r"ridge must be > 0 for a geometry by landmarks"):
        NystroemGeometry(GAUSS, 0.0).fit(X)


def test_bad_row_is_named():
    rows = X.copy()
    rows[5, 0] = np.nan
    space = KernelGeometry(GAUSS, 0.5).fit(X)
    with pytest.raises(ValueError, match="features must be finite; row 5"):
        space.features(rows)
    with pytest.raises(ValueError, match="features must be finite; row 5"):
        KernelGeometry(GAUSS, 0.5).fit(rows)


def test_smooth_kernel_whose_noise_is_lost_in_rounding_is_still_measured():
    line = np.linspace(0, 1, 200)[:, None]
    space = KernelGeometry(PairwiseKernel("rbf", {"gamma": 0.1}), 1e-16).fit(line)
    h = space.leverage(space.features(np.vstack([line, [[100.0]]])))
    assert space.factor.solver != "Cholesky"
    assert (h[:-1] < 1e-10 * h[-1]).all()
    assert h[-1] == pytest.approx(1e16, rel=1e-6)
