"""Every estimator whose intervals hold for exchangeable rows or streams, and a table to fit it to."""

from importlib.util import find_spec

from sklearn.datasets import make_regression
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import ElasticNet, LinearRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hatband import (
    ApproximateJackknifePlusRegressor,
    CrossConformalRegressor,
    FullConformalRegressor,
    Groups,
    JackknifePlusRegressor,
    LeaveOneOutKernelRidge,
    LeaveOneOutRidge,
    LeverageBins,
    OnlineConformalRegressor,
    SplitConformalRegressor,
)
from hatband.conformal import AdaptiveLevel

N = 120


def table(n_outputs=1):
    """Rows whose features are of order one, and a target above zero; y is (n,) for one output."""
    X, y = make_regression(N, 4, n_targets=n_outputs, noise=5.0, random_state=0)
    return X, (y - y.min(axis=0)) / y.std(axis=0) + 1


def scaled(estimator):
    return make_pipeline(StandardScaler(with_mean=False), estimator)


# Every estimator, as a function that makes it. A new one goes in here, and every promise of the contract is tested.
REGRESSORS = {
    "split": lambda: SplitConformalRegressor(Ridge(), random_state=0),
    "split of a pipeline": lambda: SplitConformalRegressor(scaled(Ridge()), scale="leverage", random_state=0),
    "split, asymmetric": lambda: SplitConformalRegressor(
        LinearRegression(), scale="constant", symmetric=False, random_state=0
    ),
    "split, groups in one box": lambda: SplitConformalRegressor(
        Ridge(), groups=Groups(LeverageBins(2)), joint=True, random_state=0
    ),
    "split of leave-one-out ridge": lambda: SplitConformalRegressor(LeaveOneOutRidge(), random_state=0),
    "split of leave-one-out kernel ridge": lambda: SplitConformalRegressor(LeaveOneOutKernelRidge(), random_state=0),
    "jackknife+": lambda: JackknifePlusRegressor(Ridge()),
    "jackknife, minmax": lambda: JackknifePlusRegressor(Ridge(), method="minmax", scale="constant"),
    "cross": lambda: CrossConformalRegressor(Ridge(), cv=3, scale="leverage"),
    "cross by refits": lambda: CrossConformalRegressor(ElasticNet(0.01), cv=3, method="base", scale="constant"),
    "newton": lambda: ApproximateJackknifePlusRegressor(Ridge()),
    "newton of counts": lambda: ApproximateJackknifePlusRegressor(PoissonRegressor()),
    "full": lambda: FullConformalRegressor(Ridge()),
    "full, deleted": lambda: FullConformalRegressor(Ridge(), method="deleted"),
    "full of a pipeline": lambda: FullConformalRegressor(scaled(Ridge())),
    "full of a kernel": lambda: FullConformalRegressor(KernelRidge(kernel="rbf")),
    "online": OnlineConformalRegressor,
    "online, window": lambda: OnlineConformalRegressor(
        adaptation=AdaptiveLevel(0.01), window=40, symmetric=False, score_window=50
    ),
    "online with a transformer": lambda: OnlineConformalRegressor(
        adaptation="fixed", transformer=StandardScaler(), scale="constant"
    ),
}
# The same promises at a cost that a run of every day does not pay.
COSTLY = {"cross, automatic scale": lambda: CrossConformalRegressor(Ridge(), cv=3, random_state=0)}
if find_spec("torch") is not None:
    from hatband.nn import NeuralConformalRegressor

    REGRESSORS["neural"] = lambda: NeuralConformalRegressor((4,), epochs=5, scale="leverage", random_state=0)
