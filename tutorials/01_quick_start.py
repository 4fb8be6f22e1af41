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
# # Quick start: prediction intervals driven by leverage
#
# A regressor predicts one number. This tutorial puts an interval around it that holds with a stated probability, for
# any regressor, and makes that interval wide where the regressor knows little. Everything runs in seconds, on data that
# comes with scikit-learn.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from hatband import SplitConformalRegressor
from hatband.displays import LeverageDisplay

# %% [markdown]
# ## 1. Intervals around any regressor
#
# `fit` keeps a quarter of the rows for calibration and trains on the rest. Calibration measures how large errors on
# unseen rows are; the threshold is an order statistic of those errors, so the interval holds with at least the stated
# probability for a new row drawn like the others: whatever the regressor, and for any number of rows.

# %%
X, y = load_diabetes(return_X_y=True)
X_train, X_new, y_train, y_new = train_test_split(X, y, test_size=150, random_state=0)

for estimator in (Ridge(alpha=0.1), HistGradientBoostingRegressor(max_iter=30, random_state=0)):
    model = SplitConformalRegressor(estimator, confidence_level=0.9, random_state=0).fit(X_train, y_train)
    y_pred, interval = model.predict_interval(X_new)
    inside = (interval[:, 0] <= y_new) & (y_new <= interval[:, 1])
    print(f"{type(estimator).__name__:30} covers {inside.mean():.1%}, mean width {np.diff(interval).mean():.0f}")

    assert interval.shape == (150, 2)
    assert 0.8 < inside.mean() < 1

# %% [markdown]
# One test of 150 rows after one split scatters by some percent around the promise: the promise is about the average
# over splits and new rows.
#
# ## 2. What leverage is
#
# The leverage of a row says how far it lies from what the model has seen, in the model's own geometry. For features
# $\phi(x)$, training features $\Phi$ and ridge $\lambda$ it is $h(x) = \phi(x)' (\Phi'\Phi + \lambda I)^{-1} \phi(x)$:
# the variance of the fitted value at $x$ in units of the noise variance. For a linear model it is read off the model,
# with its ridge and its intercept; here is the formula by hand.

# %%
model = SplitConformalRegressor(Ridge(alpha=0.1), scale="leverage", random_state=0).fit(X_train, y_train)
trained_on = np.delete(X_train, model.calibration_indices_, axis=0)

centre = trained_on.mean(axis=0)
gram = (trained_on - centre).T @ (trained_on - centre) + 0.1 * np.eye(10)
by_hand = 1 / len(trained_on) + np.einsum("ij,jk,ik->i", X_new - centre, np.linalg.inv(gram), X_new - centre)

assert np.allclose(model.leverage(X_new), by_hand)
print(f"leverage of new rows: median {np.median(by_hand):.3f}, largest {by_hand.max():.3f}")

# %% [markdown]
# With `scale="leverage"` the band has half-width $q \sqrt{1 + h(x)}$: 1 for the noise, $h$ for the error of the fit.
# The default, `scale="auto"`, chooses between this, a constant, and widths that are learned from residuals.

# %%
_, interval = model.predict_interval(X_new)
threshold = np.diff(interval)[:, 0] / np.sqrt(1 + model.leverage(X_new))
assert np.allclose(threshold, threshold[0])

# %% [markdown]
# Summed over the training rows, leverage is the number of parameters that the model has in effect.

# %%
assert 1 < model.leverage(trained_on).sum() < 11  # ten slopes, shrunk by the ridge, and an intercept

# %% [markdown]
# ## 3. Extrapolation
#
# Far from the training rows leverage grows, and the band with it. A band of constant width does not notice.

# %%
rng = np.random.default_rng(0)
t = rng.uniform(0, 1, 80)
z = np.sin(3 * t) + 0.1 * rng.standard_normal(80)
cubic = make_pipeline(PolynomialFeatures(degree=3, include_bias=False), LinearRegression())
grid = np.linspace(-0.5, 1.5, 201)[:, None]

figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
widths = {}
for scale, ax in zip(("constant", "leverage"), axes, strict=True):
    model = SplitConformalRegressor(cubic, scale=scale, random_state=0).fit(t[:, None], z)
    centre, interval = model.predict_interval(grid)
    widths[scale] = np.diff(interval)[:, 0]
    ax.plot(t, z, ".", color="0.6")
    ax.plot(grid, centre)
    ax.fill_between(grid[:, 0], *interval.T, alpha=0.3)
    ax.set(title=scale, xlabel="t", ylim=(-3, 3))

assert np.ptp(widths["constant"]) < 1e-9
print(f"width at t = -0.5: {widths['leverage'][0]:.2f}, at t = 0.5: {widths['leverage'][100]:.2f}")
assert widths["leverage"][0] > 3 * widths["leverage"][100]

# %% [markdown]
# The promise is about new rows *like the training rows*; no method can promise anything at t = 1.5. The leverage band
# says at least that it does not know.
#
# ## 4. Pipelines, and tables with text
#
# Put the pipeline inside: its transformers are trained on the training rows only, and leverage is measured on what the
# last step sees.

# %%
table = pd.DataFrame(X_train[:, 2:4], columns=["bmi", "pressure"])
table["ward"] = np.where(X_train[:, 0] > 0, "north", "south")
columns = make_column_transformer((StandardScaler(), ["bmi", "pressure"]), (OneHotEncoder(), ["ward"]))
model = SplitConformalRegressor(make_pipeline(columns, Ridge()), random_state=0).fit(table, y_train)

_, interval = model.predict_interval(table[:5])
assert interval.shape == (5, 2)
assert model.leverage(table[:5]).shape == (5,)

# %% [markdown]
# ## 5. Several levels at once
#
# A list of levels gives one more axis: lower and upper ends of each. The intervals are nested.

# %%
model = SplitConformalRegressor(Ridge(alpha=0.1), random_state=0).fit(X_train, y_train)
_, interval = model.predict_interval(X_new, confidence_level=[0.5, 0.8, 0.95])
assert interval.shape == (150, 2, 3)
assert (np.diff(interval[:, 0]) < 0).all()
assert (np.diff(interval[:, 1]) > 0).all()

# %% [markdown]
# ## 6. Your own calibration rows
#
# `fit_train` and `calibrate` take the two sets apart, for instance when calibration should use the most recent rows.
# Calibrating again replaces the scores; training again forgets them.

# %%
model = SplitConformalRegressor(Ridge(alpha=0.1), random_state=0)
model.fit_train(X_train[:200], y_train[:200]).calibrate(X_train[200:], y_train[200:])
_, interval = model.predict_interval(X_new)
assert len(model.scores_) == 92

# %% [markdown]
# ## 7. A model that is already trained
#
# `FrozenEstimator` keeps a fitted model as it is. `fit_train` then trains nothing: its rows are what leverage is
# measured against, best the rows that the model was trained on. The calibration rows must be new to the model.

# %%
trained = Ridge(alpha=0.1).fit(X_train[:200], y_train[:200])
frozen = SplitConformalRegressor(FrozenEstimator(trained), random_state=0)
frozen.fit_train(X_train[:200], y_train[:200]).calibrate(X_train[200:], y_train[200:])
assert np.allclose(frozen.predict_interval(X_new)[1], interval)

# %% [markdown]
# ## 8. Reading coverage by leverage
#
# Coverage on average can hide rows that are covered too rarely. `LeverageDisplay` sorts new rows into bins of leverage
# and shows the coverage of each with exact binomial bars. Here are made data, so that many new rows can be had: least
# squares with 60 columns on 120 rows, and noise that is the same everywhere. What differs between rows is the error of
# the fit, which is what leverage knows.

# %%
rng = np.random.default_rng(0)
made = rng.standard_normal((22_120, 60))
response = made.sum(axis=1) + rng.standard_normal(22_120)

ends, axes = {}, None
for scale in ("constant", "leverage"):
    model = SplitConformalRegressor(LinearRegression(), scale=scale, calibration_size=2_000, random_state=0)
    model.fit(made[:2_120], response[:2_120])
    display = LeverageDisplay.from_estimator(model, made[2_120:], response[2_120:], name=scale, ax=axes)
    ends[scale], axes = display.bin_coverage[[0, -1]], display.axes_

print({name: end.round(3) for name, end in ends.items()})
assert ends["constant"][0] - ends["constant"][1] > 0.04
assert abs(ends["leverage"][0] - ends["leverage"][1]) < 0.03

# %% [markdown]
# The constant width covers rows of high leverage too rarely and pays for it with too much coverage elsewhere. The
# leverage scale covers all bins about alike; what is left is the luck of one training set. Its intervals are not
# narrower on average: that is not what leverage buys.
#
# On real data it takes many splits to see as much, for there are few new rows in each. Diabetes again, with 45 products
# of the ten measurements (`python -m hatband demo` prints such a table):


# %%
def mean_ends(estimator, X, y, scale, sort_by="leverage"):
    """Coverage in the lowest and in the highest fifth of leverage, or of the prediction, averaged over 60 splits."""
    ends = []
    for seed in range(60):
        X_train, X_new, y_train, y_new = train_test_split(X, y, test_size=0.25, random_state=seed)
        model = SplitConformalRegressor(estimator, scale=scale, random_state=seed).fit(X_train, y_train)
        y_pred, interval = model.predict_interval(X_new)
        inside = (interval[:, 0] <= y_new) & (y_new <= interval[:, 1])
        order = np.argsort(model.leverage(X_new) if sort_by == "leverage" else y_pred)
        fifth = len(X_new) // 5
        ends.append([inside[order[:fifth]].mean(), inside[order[-fifth:]].mean()])
    return np.mean(ends, axis=0)


products = PolynomialFeatures(degree=2, interaction_only=True, include_bias=False)
quadratic = make_pipeline(StandardScaler(), products, StandardScaler(), LinearRegression())

constant, leverage = (mean_ends(quadratic, X, y, scale) for scale in ("constant", "leverage"))
print(f"lowest and highest leverage fifth: constant {constant.round(3)}, leverage {leverage.round(3)}")
assert constant[0] - constant[1] > 0.05
assert abs(leverage[0] - leverage[1]) < constant[0] - constant[1]

# %% [markdown]
# ## 9. When leverage alone does not help
#
# Leverage knows the error of the *fit*. If the *noise* varies over the rows, leverage cannot know it. Here the target
# is the largest cell area of a tumour, and large cells scatter more. With few columns all leverages are small, so the
# two scales hardly differ, and both miss a third of the tumours that are predicted to be large.

# %%
cancer = load_breast_cancer()
sizes, largest = cancer.data[:, :10], cancer.data[:, list(cancer.feature_names).index("worst area")]
linear = make_pipeline(StandardScaler(), LinearRegression())

constant, leverage = (mean_ends(linear, sizes, largest, scale, "prediction") for scale in ("constant", "leverage"))
print(f"lowest and highest fifth of the prediction: constant {constant.round(3)}, leverage {leverage.round(3)}")
assert constant[1] < 0.75
assert leverage[1] < 0.75

# %% [markdown]
# Any positive width is valid: the threshold adapts to it. A function of the row can say what leverage cannot; here,
# that the scatter grows with the predicted area.


# %%
def grows_with_area(rows):
    """Width in proportion to the predicted area, and never below that of a small cell."""
    return np.maximum(rows.prediction, 200)


grown = mean_ends(linear, sizes, largest, grows_with_area, "prediction")
print(f"the same, width growing with the prediction: {grown.round(3)}")
assert abs(grown[0] - grown[1]) < 0.05
plt.close("all")
