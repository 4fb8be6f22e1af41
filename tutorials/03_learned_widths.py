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
# # Learned widths: where the noise is, from held-out residuals
#
# Leverage knows the error of the *fit*. It knows nothing of *noise* that differs from row to row, and on real data
# that is most of what differs. A learned scale reads it off the residuals of the training rows. No calibration row is
# spent on it, and the guarantee stays what it was: a scale is a fixed function of the row by the time that calibration
# begins.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hatband import (
    AutoScale,
    ConstantScale,
    LeverageScale,
    MagnitudeScale,
    QuantileScale,
    SplitConformalRegressor,
    StrengthScale,
    effective_dimension,
)
from hatband.formulas.metrics import interval_score


def judged(model, X, y):
    """Coverage, mean width and mean interval score (width, plus 20 times the distance of what is missed) at 0.9."""
    _, interval = model.predict_interval(X, 0.9)
    inside = (interval[:, 0] <= y) & (y <= interval[:, 1])
    return inside.mean(), np.diff(interval).mean(), interval_score(y, *interval.T, 0.9).mean()


# %% [markdown]
# ## 1. What each scale can see
#
# Eight columns, a linear mean, noise that is skewed and grows with the first column. 2,000 rows, of which 500
# calibrate.


# %%
def draw(rng, n):
    X = rng.standard_normal((n, 8))
    return X, X.sum(axis=1) + np.exp(0.7 * X[:, 0]) * (rng.gamma(1.0, size=n) - 1)


rng = np.random.default_rng(0)
X, y = draw(rng, 2_000)
X_new, y_new = draw(rng, 10_000)

scales = {
    "constant": ConstantScale(),
    "leverage": LeverageScale(),
    "strength": StrengthScale(),
    "magnitude": MagnitudeScale(),
    "quantile": QuantileScale(),
}
figure, axes = plt.subplots(1, len(scales), figsize=(15, 3), sharey=True, layout="constrained")
outcome = {}
for (name, scale), ax in zip(scales.items(), axes, strict=True):
    model = SplitConformalRegressor(LinearRegression(), scale=scale, calibration_size=500, random_state=0).fit(X, y)
    outcome[name] = judged(model, X_new, y_new)
    y_pred, interval = model.predict_interval(X_new[:1_000])
    ax.plot(X_new[:1_000, 0], y_new[:1_000] - y_pred, ".", color="0.7", markersize=2)
    ax.plot(X_new[:1_000, 0], interval - y_pred[:, None], ".", markersize=2)
    ax.set(title=f"{name}: score {outcome[name][2]:.2f}", xlabel="first column", ylim=(-5, 10))
    print(f"{name:10} covers {outcome[name][0]:.3f}, mean width {outcome[name][1]:.2f}, score {outcome[name][2]:.2f}")
plt.close(figure)

assert all(0.85 < coverage < 0.95 for coverage, _, _ in outcome.values())
assert outcome["magnitude"][2] < 0.85 * outcome["leverage"][2]
assert outcome["quantile"][2] < outcome["magnitude"][2]

# %% [markdown]
# All five cover 90 %, as promised. `LeverageScale` is $(1 + h)^{1/2}$ and `StrengthScale` $(1 + c h)^{1/2}$ with c
# estimated: leverage grows to *every* side of the middle, the noise to one. `MagnitudeScale` learns the size of the
# residual from leverage, prediction and inputs; its interval is centred on the prediction. `QuantileScale` learns the
# two ends, so that the interval of skewed noise is off centre: it is prediction + shift -+ threshold x width.
#
# ## 2. Held-out residuals
#
# Residuals of the rows that trained the model are too small, and most so where the model knows least: their
# variance is $\sigma^2 (1 - h)$, where that of a new row's error is $\sigma^2 (1 + h)$. Scales learn from residuals as
# if each row had not been seen. For linear smoothers that is one division by $1 - h$, exact and without a refit; other
# models are refitted on five folds. `residuals_from_` says which.

# %%
wide = rng.standard_normal((150, 60))
response = wide.sum(axis=1) + rng.standard_normal(150)
model = SplitConformalRegressor(LinearRegression(), scale="strength", calibration_size=0).fit(wide, response)
print("residuals from:", model.residuals_from_)
assert model.residuals_from_ == "leave-one-out"

unseen = rng.standard_normal((5_000, 60))
error = np.std(unseen.sum(axis=1) + rng.standard_normal(5_000) - model.predict(unseen))
training = response - model.predict(wide)
held_out = training / (1 - model.leverage(wide))
print(f"error on new rows {error:.2f}")
print(f"held-out residuals {held_out.std():.2f}, training residuals {training.std():.2f}")
assert abs(held_out.std() / error - 1) < 0.25
assert training.std() < 0.7 * error

forest = RandomForestRegressor(30, random_state=0)
model = SplitConformalRegressor(forest, scale="magnitude", calibration_size=500, random_state=0).fit(X, y)
print("residuals of a forest from:", model.residuals_from_)
assert model.residuals_from_ == "5-fold cross-validation"

# %% [markdown]
# ## 3. Letting the training rows choose
#
# Which scale is best depends on the data. The default, `scale="auto"`, is `AutoScale`: it compares the candidates by
# cross-validated interval score on those same held-out residuals, and takes a more complicated one only if it is better
# by more than the standard error of the difference. `report_` holds the comparison.
#
# The breast cancer data again, where the largest cell area of a tumour is predicted from the averages of its cells:

# %%
cancer = load_breast_cancer()
sizes, largest = cancer.data[:, :10], cancer.data[:, list(cancer.feature_names).index("worst area")]
linear = make_pipeline(StandardScaler(), LinearRegression())

model = SplitConformalRegressor(linear, scale="auto", random_state=0).fit(sizes, largest)
print(f"{'candidate':34} {'score':>7} {'excess':>7} {'error':>6}")
for row in model.scale_.report_:
    mark = "  <- chosen" if row["chosen"] else ""
    print(f"{row['candidate']:34} {row['score']:7.0f} {row['excess']:7.0f} {row['standard_error']:6.0f}{mark}")
chosen = next(row["candidate"] for row in model.scale_.report_ if row["chosen"])
assert chosen.startswith(("magnitude", "quantile", "boosted", "both"))


# %% [markdown]
# What that buys, over 20 splits: less in the mean, and above all the tumours that are predicted to be large, of which
# a third fall outside an interval of constant width.


# %%
def over_splits(estimator, X, y, scale, splits=20):
    """Mean over splits of coverage, width, score, and coverage of the fifth with the largest predictions."""
    found = []
    for seed in range(splits):
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=seed)
        model = SplitConformalRegressor(estimator, scale=scale, random_state=seed).fit(X_train, y_train)
        large = np.argsort(model.predict(X_test))[-len(y_test) // 5 :]
        found.append([*judged(model, X_test, y_test), judged(model, X_test[large], y_test[large])[0]])
    return np.mean(found, axis=0)


table = {scale: over_splits(linear, sizes, largest, scale) for scale in ("constant", "leverage", "auto")}
for scale, (coverage, width, score, large) in table.items():
    print(f"{scale:10} covers {coverage:.3f}, mean width {width:.0f}, score {score:.0f}; large tumours {large:.3f}")
assert table["auto"][2] < 0.85 * min(table["constant"][2], table["leverage"][2])
assert table["auto"][3] > table["constant"][3] + 0.1

# %% [markdown]
# The choice can be narrowed, and its candidates can be your own scales; the simpler stand first. Here, none that
# shifts the centre, because MAPIE's StdConformityScore and `predict(X, return_width=True)` have no place for a shift.

# %%
centred = AutoScale({"leverage": LeverageScale(), "constant": ConstantScale(), "magnitude": MagnitudeScale()})
model = SplitConformalRegressor(linear, scale=centred, random_state=0).fit(sizes, largest)
prediction, width = model.predict(sizes, return_width=True)
assert len(model.scale_.report_) == 3
assert width.shape == prediction.shape == largest.shape

# %% [markdown]
# ## 4. Off the data
#
# Trees are flat beyond their training rows, and so would be a width that trees have learned. A row whose leverage
# reaches the largest of the training rows gets the largest training width, and where the prediction leaves its range
# too, the width grows as $(1 + h)^{1/2}$ does.

# %%
x = np.array([[1.0], [2.0], [20.0], [2000.0]]) * np.ones(8)
for name in ("constant", "leverage", "magnitude", "auto"):
    model = SplitConformalRegressor(LinearRegression(), scale=name, calibration_size=500, random_state=0).fit(X, y)
    widths = np.diff(model.predict_interval(x)[1])[:, 0]
    print(f"{name:10} width at 1, 2, 20, 2,000 in every column: {widths.round(2)}")
    if name in ("magnitude", "auto"):
        inside = np.diff(model.predict_interval(X)[1])
        assert widths[2] >= inside.max() * (1 - 1e-9)
        assert widths[3] > widths[2]

# %% [markdown]
# A tree model is flat out there. Moved along one column, its prediction stays in the range, nothing but leverage says
# that it extrapolates, and its width stops at the largest training width.

# %%
along = x * np.eye(8)[0]
trees = HistGradientBoostingRegressor(max_iter=30, random_state=0)
model = SplitConformalRegressor(trees, scale="magnitude", calibration_size=500, random_state=0).fit(X, y)
widths = np.diff(model.predict_interval(along)[1])[:, 0]
print("boosting, width at 1, 2, 20, 2,000 in the first column:", widths.round(2))
assert np.isclose(widths[2], widths[3])
assert model.leverage(along)[3] > 100 * model.leverage(X).max()

# %% [markdown]
# So look at the leverage itself, beside that of the calibration rows, before trusting such a row.
#
# ## 5. When the fixed leverage scale is better
#
# When there is nothing to learn, or too little to learn it from. With few rows and many columns the error of the fit
# is what differs, $(1 + h)^{1/2}$ is its exact shape, and a forest of 150 residuals can only add noise to it.
# `AutoScale` finds that out most of the time, and below 100 training rows it does not try.

# %%
scores = {name: [] for name in ("leverage", "magnitude", "auto")}
picked = []
for seed in range(8):
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((2_300, 40))
    target = columns.sum(axis=1) + rng.standard_normal(2_300)
    for name, found in scores.items():
        model = SplitConformalRegressor(Ridge(0.1), scale=name, calibration_size=150, random_state=seed)
        model.fit(columns[:300], target[:300])
        found.append(judged(model, columns[300:], target[300:])[2])
    picked += [row["candidate"] for row in model.scale_.report_ if row["chosen"]]
means = {name: float(np.mean(found).round(2)) for name, found in scores.items()}
print(f"{effective_dimension(columns[:150], ridge=0.1):.0f} of 150 degrees of freedom used; mean scores {means}")
print("chosen:", sorted(picked))
assert means["leverage"] < means["magnitude"]
assert means["auto"] < 1.02 * means["leverage"]

few = SplitConformalRegressor(Ridge(0.1), random_state=0).fit(columns[:120], target[:120])
print(few.scale_.report_)
assert few.scale_.report_[0]["candidate"] == "leverage"

# %% [markdown]
# Three more cases for `scale="leverage"`:
#
# - `JackknifePlusRegressor` has no refitted models for a scale to learn from, and takes leverage alone.
# - Time: learned scales cost some seconds on large training sets, leverage a fraction of the fit.
# - An interval that must be centred on the prediction and be explained in one line.
