"""What every scale promises: each entry of `SCALES` is held to it, and a new entry is tested at once."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.utils.validation import has_fit_parameter

import hatband.scales
from hatband import LeverageWarning, SplitConformalRegressor
from hatband.fitted.rows import NoHeldOutResiduals, Rows
from hatband.scales import Scale
from hatband.scales.base import CallableScale, shift_and_width
from hatband.scales.named import NAMED, as_scale, fit_scale
from scales.cases import SCALES, draw, rows_of

N = 240
NAMES = sorted(NAMED)


@pytest.fixture(params=SCALES.values(), ids=SCALES)
def make(request):
    return request.param


@pytest.fixture
def scale(make):
    return make()


def training(rng, n=N, n_outputs=1):
    """Rows of leverage, prediction and inputs, and residuals (n, q) whose size follows all three."""
    h, prediction, inputs = rng.exponential(0.5, n), rng.standard_normal((n, n_outputs)), rng.uniform(-1, 1, (n, 3))
    size = np.sqrt(1 + h)[:, None] * np.exp(inputs[:, [0]] + 0.3 * prediction)
    return rows_of(h, prediction, inputs), size * rng.standard_normal((n, n_outputs))


def fitted(scale, rows, residuals, weight=None):
    return scale.fit(rows, residuals) if weight is None else scale.fit(rows, residuals, sample_weight=weight)


def band(scale, rows):
    """Shift and width, both (m, 1) or (m, q)."""
    shift, width = shift_and_width(scale, rows)
    return np.broadcast_to(shift, np.broadcast_shapes(np.shape(shift), width.shape)), width


def learns(scale):
    return getattr(scale, "needs_residuals", False)


def takes_weights(scale):
    return has_fit_parameter(scale, "sample_weight")


def name_of(scale):
    return type(scale).__name__


class Unread(Exception):
    """What must not be read was read."""


def _unread():
    raise Unread


def _no_residuals():
    raise NoHeldOutResiduals


def test_every_public_scale_is_held_to_the_contract():
    public = {getattr(hatband.scales, name) for name in hatband.scales.__all__}
    public = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Scale)}
    missing = (public | set(NAMED.values())) - {Scale} - {type(make()) for make in SCALES.values()}
    assert not missing, f"{missing} must have a case in SCALES of tests/scales/cases.py"


class TestWeights:
    def test_a_row_of_weight_0_counts_like_one_that_is_not_there(self, make, rng):
        if not (learns(make()) and takes_weights(make())):
            return
        rows, residuals = training(rng)
        wild = rows_of(
            np.append(rows.leverage, [50.0] * 60),
            np.vstack([rows.prediction, np.full((60, 1), 99.0)]),
            np.vstack([rows.inputs, np.full((60, 3), -7.0)]),
        )
        weight = rng.uniform(0.5, 2, N)
        expected = fitted(make(), rows, residuals, weight)
        seen = fitted(make(), wild, np.vstack([residuals, np.full((60, 1), 1e4)]), np.append(weight, np.zeros(60)))

        np.testing.assert_allclose(band(seen, wild), band(expected, wild), rtol=1e-9)

    def test_equal_weights_change_nothing(self, make, rng):
        if not takes_weights(make()):
            return
        rows, residuals = training(rng)
        none, ones, sevens = (
            band(fitted(make(), rows, residuals, w), rows) for w in (None, np.ones(N), np.full(N, 7.0))
        )

        np.testing.assert_allclose(sevens, ones, rtol=1e-6)
        # A regressor may have other quantiles with weights than without, as HistGradientBoostingRegressor has.
        if getattr(make(), "regressor", None) is None:
            np.testing.assert_allclose(ones, none, rtol=1e-6)

    def test_are_refused_where_fit_takes_none_and_the_scale_learns(self, scale, rng):
        X, y = draw(rng, 100)
        model = SplitConformalRegressor(Ridge(), scale=scale, random_state=0)
        weight = rng.uniform(1, 2, len(y))
        if takes_weights(scale) or not learns(scale):
            model.fit(X, y, sample_weight=weight)
            return
        with pytest.raises(TypeError, match=rf"sample_weight was passed, but {type(scale).__name__}\.fit, the scale"):
            model.fit(X, y, sample_weight=weight)


class TestBands:
    def test_have_widths_that_are_positive_and_finite_and_shifts_of_their_shape(self, scale, rng):
        rows, residuals = training(rng)
        shift, width = shift_and_width(fitted(scale, rows, residuals), rows)

        assert width.shape == (N, 1)
        assert (width > 0).all()
        assert np.isfinite(width).all()
        assert np.shape(shift) in {(), (N, 1)}
        assert np.isfinite(shift).all()

    def test_are_there_for_inputs_with_gaps(self, scale, rng):
        rows, residuals = training(rng)
        inputs = np.where(rng.uniform(size=rows.inputs.shape) < 0.1, np.nan, rows.inputs)
        gaps = rows_of(rows.leverage, rows.prediction, inputs)
        _, width = band(fitted(scale, gaps, residuals), gaps)

        assert (width > 0).all()
        assert np.isfinite(width).all()

    def test_are_infinite_where_leverage_is_but_for_the_constant(self, scale, rng):
        rows, residuals = training(rng)
        beyond = rows_of(np.append(rows.leverage[:5], np.inf), rows.prediction[:6], rows.inputs[:6])
        fitted(scale, rows, residuals)
        _, width = band(scale, beyond)

        assert np.isfinite(width[:-1]).all(), "widths must be finite where leverage is"
        if type(scale).__module__.startswith("hatband"):
            expected = getattr(scale, "leverage_exponent", None) != 0
            assert np.isinf(width[-1, 0]) == expected, (
                f"a scale of the package has infinite width where leverage is infinite, unless its leverage_exponent "
                f"is 0; {name_of(scale)} has {width[-1, 0]}. Envelope (scales/learned.py) does this"
            )

    def test_of_one_output_do_not_depend_on_the_others(self, make, rng):
        rows, residuals = training(rng, n_outputs=2)
        shift, width = (np.broadcast_to(part, (N, 2)) for part in band(fitted(make(), rows, residuals), rows))
        for j in range(2) if learns(make()) else ():
            alone = band(fitted(make(), rows.of_output(j), residuals[:, [j]]), rows.of_output(j))
            np.testing.assert_allclose((shift[:, [j]], width[:, [j]]), alone, rtol=1e-12)

    @pytest.mark.parametrize("factor", [1024.0, 2.0**-30])
    def test_follow_the_units_of_the_residuals(self, make, factor, rng):
        rows, residuals = training(rng)
        _, one = band(fitted(make(), rows, residuals), rows)
        _, other = band(fitted(make(), rows, factor * residuals), rows)

        np.testing.assert_allclose(other / other[0], one / one[0], rtol=1e-6)


class TestFlags:
    def test_a_scale_is_pointwise_where_it_reads_leverage_alone(self, make, rng):
        rows, residuals = training(rng)
        scale = fitted(make(), rows, residuals)
        _, expected = band(scale, rows)
        h, s = rows.leverage, rows.sampling_leverage
        bare = Rows(N, inputs=_unread, leverage=lambda: h, sampling_leverage=lambda: s, prediction=_unread)
        name = name_of(scale)
        if getattr(scale, "pointwise", False):
            try:
                _, seen = band(scale, bare)
            except Unread:
                pytest.fail(f"{name} declares pointwise = True, and reads inputs or prediction; declare False")
            np.testing.assert_array_equal(seen, expected)
        elif not make.reads_leverage_alone:
            try:
                band(scale, bare)
            except Unread:
                return
            pytest.fail(
                f"{name} reads leverage alone; declare pointwise = True, or say why not in "
                "Case(reads_leverage_alone=...)"
            )

    def test_residuals_are_needed_where_it_says_so(self, scale, rng):
        name = name_of(scale)
        if learns(scale) and not getattr(scale, "works_without_residuals", False):
            try:
                scale.fit(None, None)
            except Exception as error:
                if not (isinstance(error, ValueError) and "learns from training rows" in str(error)):
                    pytest.fail(f"{name}.fit must begin with check_training_rows; without rows it says {error!r}")
                return
            pytest.fail(f"{name} declares needs_residuals = True, but fits without rows; declare False")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeverageWarning)
            if learns(scale):
                fit_scale(scale, _no_residuals)
            else:
                fit_scale(scale, _unread)
        rows, _ = training(rng)
        assert (band(scale, rows)[1] > 0).all()

    def test_the_leverage_exponent_is_that_of_the_width(self, scale, rng):
        rows, residuals = training(rng)
        # A power of the sampling form is no power of the posterior form.
        rows = rows_of(rows.leverage, rows.prediction, rows.inputs, sampling=rng.exponential(0.5, N))
        _, width = band(fitted(scale, rows, residuals), rows)
        logs, base = np.log(width[:, 0] / width[0, 0]), np.log((1 + rows.leverage) / (1 + rows.leverage[0]))
        power = float(logs @ base / (base @ base))
        is_power = np.allclose(logs, power * base, rtol=0, atol=1e-9)
        declared, name = getattr(scale, "leverage_exponent", None), name_of(scale)
        if declared is not None:
            assert is_power, f"{name} declares leverage_exponent = {declared}; its width is no power of 1 + h"
            assert abs(declared - power) < 1e-9, (
                f"{name} has width (1 + h)^{power:.6g}; leverage_exponent is {declared}"
            )
        elif getattr(scale, "pointwise", False):
            assert not is_power or power < 0, (
                f"{name} has width (1 + h)^{power:.6g}; declare leverage_exponent: jackknife+ is faster"
            )


class TestObjects:
    def test_a_clone_is_unfitted_and_learns_the_same(self, scale, rng):
        rows, residuals = training(rng)
        expected = band(fitted(scale, rows, residuals), rows)
        twin = clone(scale, safe=False) if isinstance(scale, BaseEstimator) else type(scale)(**scale.get_params())

        assert not [name for name in vars(twin) if name.endswith("_")]
        np.testing.assert_array_equal(band(fitted(twin, rows, residuals), rows), expected)

    def test_pickle_keeps_what_was_learned(self, scale, rng):
        rows, residuals = training(rng)
        expected = band(fitted(scale, rows, residuals), rows)

        np.testing.assert_array_equal(band(pickle.loads(pickle.dumps(scale)), rows), expected)

    def test_parameters_are_set_as_they_are_read(self, scale):
        parameters = scale.get_params(deep=False)
        assert scale.set_params(**parameters) is scale
        assert scale.get_params(deep=False) == parameters

    def test_fitting_does_not_change_parameters(self, scale, rng):
        before = repr(scale.get_params(deep=False))
        fitted(scale, *training(rng))
        assert repr(scale.get_params(deep=False)) == before

    def test_the_estimator_around_it_leaves_it_as_it_was(self, scale, rng):
        SplitConformalRegressor(Ridge(), scale=scale, random_state=0).fit(*draw(rng, 150))
        assert not [name for name in vars(scale) if name.endswith("_")]


FAR = {name: case for name, case in SCALES.items() if not case.narrow_far_out}
FAR |= {f"scale={name!r}": NAMED[name] for name in NAMES}


class TestOffTheData:
    """A thousand times as far out as any training row."""

    @pytest.mark.parametrize("estimator", [Ridge(), KernelRidge(kernel="rbf", alpha=0.5)], ids=["linear", "kernel"])
    @pytest.mark.parametrize("name", FAR)
    def test_no_training_row_has_a_wider_interval(self, name, estimator, rng):
        X, y = draw(rng, 400)
        model = SplitConformalRegressor(estimator, scale=FAR[name](), random_state=0).fit(X, y)
        far = 1000 * np.abs(X).max() * np.vstack([np.eye(3), -np.eye(3)])
        width = np.ptp(model.predict_interval(far)[1], axis=1)
        widest = np.ptp(model.predict_interval(X)[1], axis=1).max()

        assert np.isfinite(width).all()
        assert width.min() >= widest * (1 - 1e-9), (
            f"{name}: an interval far off the data has width {width.min():.3g}, one at a training row {widest:.3g}. "
            "Take the largest training width beyond the largest training leverage, as Envelope (scales/learned.py) "
            "does, or say in Case(narrow_far_out=...) why not"
        )

    def test_names_are_listed_where_one_is_unknown(self):
        with pytest.raises(ValueError, match="scale must be one of") as seen:
            as_scale("unknown")
        assert str(NAMES) in str(seen.value)


def test_a_saved_model_has_the_same_band_or_says_that_the_scale_would_need_code(scale, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from hatband.nn import LastLayerConformalRegressor

    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    X = torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
    y = X[:, 0] + X[:, 1].abs() * torch.randn(150, generator=torch.Generator().manual_seed(1))
    model = LastLayerConformalRegressor(network(), scale=scale, random_state=0)
    model.fit_train(X[:100], y[:100], validation=(X[:100], y[:100])).calibrate(X[100:], y[100:])
    plain = all(isinstance(value, bool | int | float | str | tuple | None) for value in scale.get_params().values())
    if not (type(scale).__module__.startswith("hatband") and plain):
        with pytest.raises(ValueError, match="Pickle the model instead"):
            model.save(tmp_path / "model.safetensors")
        return
    model.save(tmp_path / "model.safetensors")
    loaded = LastLayerConformalRegressor.load(tmp_path / "model.safetensors", network())
    np.testing.assert_array_equal(loaded.predict_interval(X)[1], model.predict_interval(X)[1])


def test_a_function_becomes_a_scale():
    assert isinstance(as_scale(lambda rows: 1 + rows.leverage), CallableScale)
