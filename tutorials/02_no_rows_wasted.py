# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # No rows wasted: jackknife+ and CV+
#
# Split conformal prediction sets rows aside for calibration: they never train the model. With a few hundred rows that
# hurts twice, for the model is worse and the threshold is noisy. The jackknife+ uses every row for both. It asks what
# each row would have looked like to a model that had not seen it. That takes n refits, unless the model is linear in
# y: then one factorisation answers for all n.

# %%
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from hatband import (
    ApproximateJackknifePlusRegressor,
    CrossConformalRegressor,
    JackknifePlusRegressor,
    LeverageWarning,
    SplitConformalRegressor,
)

# %% [markdown]
# ## 1. What a split costs
#
# 300 rows, 30 features, noise of standard deviation 1. The interval of someone who knows the coefficients is 3.29 wide.


# %%
def draw(rng, n):
    X = rng.standard_normal((n, 30)) / np.sqrt(np.arange(1, 31))
    return X, X @ np.ones(30) + rng.standard_normal(n)


rng = np.random.default_rng(0)
outcomes = {"split": [], "jackknife+": []}
for _ in range(30):
    X, y = draw(rng, 300)
    X_new, y_new = draw(rng, 500)
    models = {
        "split": SplitConformalRegressor(LinearRegression(), calibration_size=0.5, random_state=0),
        "jackknife+": JackknifePlusRegressor(LinearRegression()),
    }
    for name, model in models.items():
        _, interval = model.fit(X, y).predict_interval(X_new)
        inside = (interval[:, 0] <= y_new) & (y_new <= interval[:, 1])
        outcomes[name].append((inside.mean(), np.diff(interval).mean()))

coverage, width = (
    dict(zip(outcomes, part, strict=True)) for part in np.array([np.mean(o, 0) for o in outcomes.values()]).T
)
print({name: (round(coverage[name], 3), round(width[name], 2)) for name in outcomes})
assert width["jackknife+"] < 0.95 * width["split"]
assert min(coverage.values()) > 0.88

# %% [markdown]
# ## 2. Why no refit is needed
#
# The prediction of ridge regression is a weighted sum of y; h(x, x_i) is the weight of row i at x, and h_ii its weight
# in its own prediction. Without row i, its residual is e_i / (1 - h_ii), and the prediction anywhere else moves by
# h(x, x_i) e_i / (1 - h_ii). Exactly: here against refits.

# %%
X, y = draw(rng, 100)
model = JackknifePlusRegressor(Ridge(2.0), scale="constant").fit(X, y)
refitted = []
for i in range(100):
    others = np.arange(100) != i
    refitted.append(y[i] - Ridge(2.0).fit(X[others], y[others]).predict(X[[i]])[0])
assert np.allclose(model.scores_[:, 0], refitted, rtol=1e-10)

start = time.perf_counter()
_, interval = JackknifePlusRegressor(Ridge(2.0)).fit(*draw(rng, 2000)).predict_interval(draw(rng, 1000)[0])
print(f"2,000 leave-one-out models, 1,000 intervals: {time.perf_counter() - start:.2f} s")

# %% [markdown]
# With the default scale a row's score is the studentised residual e_i / (1 - h_ii)^1/2, and the interval grows with the
# leverage that x would have without row i. The guarantee does not depend on the scale.
#
# Features are free, as long as they do not depend on y: splines, polynomials, random features, a kernel. Transformers
# in a Pipeline are held as they were fitted to all rows; the benchmarks say how little that matters.

# %%
x = np.sort(rng.uniform(0, 1, 60))[:, None]
y = np.sin(9 * x[:, 0]) + 0.3 * rng.standard_normal(60)
grid = np.linspace(-0.3, 1.3, 200)[:, None]
curves = {
    "splines": make_pipeline(SplineTransformer(8, extrapolation="linear"), Ridge(0.1)),
    "gaussian process": GaussianProcessRegressor(RBF(0.15), alpha=0.09, optimizer=None),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for axis, (name, estimator) in zip(axes, curves.items(), strict=True):
    middle, band = JackknifePlusRegressor(estimator).fit(x, y).predict_interval(grid)
    axis.fill_between(grid[:, 0], *band.T, alpha=0.3)
    axis.plot(grid[:, 0], middle)
    axis.plot(x[:, 0], y, ".k", markersize=3)
    axis.set(title=name, ylim=(-5, 5))
    inside_the_data = np.diff(band[(grid[:, 0] > 0.1) & (grid[:, 0] < 0.9)]).mean()
    assert np.diff(band[:1])[0, 0] > 1.3 * inside_the_data
plt.close(figure)

# %% [markdown]
# ## 3. Any regressor: CV+
#
# A forest has no such formula. CV+ refits it K times; each row is scored by the model that has not seen its fold, and
# leverage and scale are fitted inside the folds too. Groups stay together with a splitter that keeps them so.

# %%
X, y = load_diabetes(return_X_y=True)
forest = RandomForestRegressor(50, min_samples_leaf=5, random_state=0)
folds = KFold(5, shuffle=True, random_state=0)
cross = CrossConformalRegressor(forest, cv=folds, random_state=0).fit(X[:300], y[:300])
_, interval = cross.predict_interval(X[300:])
inside = (interval[:, 0] <= y[300:]) & (y[300:] <= interval[:, 1])
print(f"CV+ around a forest: coverage {inside.mean():.3f}, width {np.diff(interval).mean():.0f}")
assert inside.mean() > 0.8
assert cross.held_out_.refitted

clinics = np.arange(300) % 12
grouped = CrossConformalRegressor(forest, cv=GroupKFold(4), random_state=0).fit(X[:300], y[:300], cv_groups=clinics)
assert grouped.scores_.shape == (300, 1)

# %% [markdown]
# With ridge regression and a constant or leverage scale even CV+ needs no refits: a block of rows is left out in closed
# form.

# %%
blocks = CrossConformalRegressor(Ridge(), scale="leverage", cv=folds).fit(X[:300], y[:300])
assert not blocks.held_out_.refitted

# %% [markdown]
# ## 4. Convex losses: one Newton step per row
#
# Lasso, Huber and generalised linear models are not linear in y. One Newton step from the full fit comes close to a
# refit; for Lasso it is exact for every row whose absence leaves the active set as it is, and `kept_share_` says for
# how many that holds. The intervals are approximate, and their name says so.

# %%
lasso = Lasso(0.1, tol=1e-8)
model = ApproximateJackknifePlusRegressor(lasso).fit(X[:300], y[:300])
n = 300
exact = []
for i in range(n):
    others = np.arange(n) != i
    # The same penalty in total: scikit-learn's is per row.
    refit = clone(lasso).set_params(alpha=0.1 * n / (n - 1)).fit(X[:n][others], y[:n][others])
    exact.append(y[i] - refit.predict(X[[i]])[0])
distance = np.abs(model.scores_[:, 0] - exact)
print(f"exact for {model.kept_share_:.1%} of the rows; largest difference {distance.max():.2f} of a width of 180")
assert 0.5 < model.kept_share_ < 1
assert np.median(distance) < 1e-3

# %% [markdown]
# ## 5. What is promised, and when not
#
# For exchangeable rows and a penalty and features fixed in advance, jackknife+ covers with probability at least
# 1 - 2 (1 - level), and close to the level when single rows do not move the model much; `method="minmax"` covers with
# at least the level. A penalty tuned on the same rows is refused unless you insist. And where a row cannot be left out,
# because it is the only one of its kind, the interval says that nothing is known.

# %%
safe = JackknifePlusRegressor(Ridge(0.1), method="minmax").fit(X[:300], y[:300])
_, wide = safe.predict_interval(X[300:])
_, interval = safe.set_params(method="plus").predict_interval(X[300:])
print(f"minmax is {np.diff(wide).mean() / np.diff(interval).mean() - 1:.1%} wider")
assert (wide[:, 0] <= interval[:, 0] + 1e-9).all()
assert (interval[:, 1] <= wide[:, 1] + 1e-9).all()

lonely = np.column_stack([X[:300], np.arange(300) == 7])
model = JackknifePlusRegressor(LinearRegression()).fit(lonely, y[:300])
assert np.isinf(model.scores_[7, 0])
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always", LeverageWarning)
    _, interval = model.set_params(method="minmax").predict_interval(lonely)
print(heard[0].message)
assert np.isinf(interval).all()
