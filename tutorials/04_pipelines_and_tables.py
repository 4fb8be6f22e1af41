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
# # Tables, Pipelines, and choosing by the interval
#
# Real tables have text in them, gaps, a price that wants a logarithm, and many settings to choose. This tutorial takes
# one from the data frame to intervals, chooses the settings by how good the *intervals* are, and then looks hard at
# the winner. The table is made, so that there are plenty of new rows to check with.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from hatband import InputsGeometry, SplitConformalRegressor, interval_scorer
from hatband.diagnostics import (
    ExtrapolationGuard,
    coverage_by_leverage,
    coverage_gap,
    leverage_alignment,
    leverage_variation,
    size_stratified_coverage,
    squared_coverage_error,
    width_decomposition,
    worst_slab_coverage,
)
from hatband.displays import LeverageDisplay

# %% [markdown]
# ## 1. The table
#
# Rents of flats: floor area, year (one in ten unknown), heating, and the street, of which most have few flats. The rent
# is a product, so dear flats scatter more.

# %%
rng = np.random.default_rng(0)
streets = np.array([f"street {k}" for k in range(60)])
popularity = 1 / np.arange(1, 61)
premium = 0.4 * rng.standard_normal(60)


def draw(n):
    street = rng.choice(60, n, p=popularity / popularity.sum())
    flats = pd.DataFrame(
        {
            "area": rng.gamma(8, 9, n),
            "year": np.where(rng.random(n) < 0.1, np.nan, rng.integers(1900, 2021, n)),
            "heating": rng.choice(["gas", "district", "oil"], n, p=[0.6, 0.3, 0.1]),
            "street": streets[street],
        }
    )
    log_rent = 3 + 0.9 * np.log(flats["area"]) + 0.1 * (flats["heating"] == "district") + premium[street]
    return flats, np.exp(log_rent + 0.12 * rng.standard_normal(n))


flats, rent = draw(900)
new_flats, new_rent = draw(6_000)
print(flats.assign(rent=rent.round()).head(4))

# %% [markdown]
# ## 2. The Pipeline goes inside
#
# `SplitConformalRegressor` takes the whole Pipeline as its estimator and the data frame as X. The transformers are
# fitted on the training rows only, and leverage is measured on what the last step sees: here on imputed, scaled and
# one-hot encoded columns, with the ridge and the intercept of the `Ridge`.

# %%
columns = make_column_transformer(
    (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["area", "year"]),
    (OneHotEncoder(handle_unknown="ignore"), ["heating", "street"]),
)
model = SplitConformalRegressor(make_pipeline(columns, Ridge()), scale="leverage", random_state=0).fit(flats, rent)
predicted, interval = model.predict_interval(new_flats)
leverage = model.leverage(new_flats)

count = new_flats["street"].map(flats["street"].value_counts()).fillna(0)
for name, rows in {"at most 3": count <= 3, "100 or more": count >= 100}.items():
    print(f"flats of streets with {name} training rows: mean leverage {leverage[rows].mean():.3f}")
assert leverage[count <= 3].mean() > 10 * leverage[count >= 100].mean()

# %% [markdown]
# A street with three flats in the table is far from what the model has seen, whatever the area. No column of distances
# was needed to say so.
#
# ## 3. A target on another scale
#
# `TransformedTargetRegressor` makes the model learn the logarithm. Scores are formed there and the ends are mapped
# back: intervals of a logarithm are factors, wide where the rent is high, and never negative.

# %%
logged = TransformedTargetRegressor(make_pipeline(columns, Ridge()), func=np.log, inverse_func=np.exp)
factors = SplitConformalRegressor(logged, scale="leverage", random_state=0).fit(flats, rent)
_, log_interval = factors.predict_interval(new_flats)

dear = predicted > np.quantile(predicted, 0.8)
for name, ends in {"rent": interval, "log rent": log_interval}.items():
    inside = (ends[:, 0] <= new_rent) & (new_rent <= ends[:, 1])
    print(f"{name:8}: covers {inside.mean():.3f}, of the dearest fifth {inside[dear].mean():.3f}")
assert (log_interval[:, 0] > 0).all()
assert interval[:, 0].min() < 0

# %% [markdown]
# ## 4. Scoring intervals
#
# `interval_scorer` scores the intervals of an estimator, greater is better, wherever scikit-learn takes `scoring=`. The
# interval score is the width plus a fine for each miss, 2 / (1 - level) times the distance: it cannot be improved by
# intervals that are too narrow or too wide.

# %%
scoring = interval_scorer("interval_score", confidence_level=0.9)
scores = {
    name: cross_val_score(estimator, flats, rent, scoring=scoring, cv=4)
    for name, estimator in {"rent": model, "log rent": factors}.items()
}
for name, fold_scores in scores.items():
    print(f"{name:8}: {fold_scores.mean():.0f} -+ {fold_scores.std() / 2:.0f}")
assert scores["log rent"].mean() > scores["rent"].mean()

# %% [markdown]
# It reaches through an outer Pipeline too, should other steps stand before ours: `predict` hands
# `return_interval=True` on to the last step.


# %%
def log_area(table):
    return table.assign(area=np.log(table["area"]))


outer = Pipeline([("logarithm", FunctionTransformer(log_area)), ("interval", clone(factors))])
print(f"with the logarithm of the area: {cross_val_score(outer, flats, rent, scoring=scoring, cv=4).mean():.0f}")
_, through = outer.fit(flats, rent).predict(new_flats, return_interval=True)
assert through.shape == (6_000, 2)

# %% [markdown]
# ## 5. Choosing settings by the interval
#
# A search may vary anything: the ridge deep inside, whether the target is transformed, the scale, the geometry in which
# leverage is measured. `InputsGeometry()` measures it on the table as it came, without the model.
#
# A search looks at the rows it chooses by, so its choice must not be calibrated on the same rows. Keep some apart:
# search on 600, then `fit_train` the winner on these 600 and `calibrate` it on the other 300.

# %%
plain = make_pipeline(columns, Ridge())
grid = {
    "interval__estimator": [
        clone(base).set_params(**{name: ridge})
        for base, name in ((plain, "ridge__alpha"), (logged, "regressor__ridge__alpha"))
        for ridge in (0.1, 1.0, 10.0)
    ],
    "interval__scale": ["constant", "leverage"],
    "interval__geometry": ["auto", InputsGeometry()],
}
search = GridSearchCV(outer, grid, scoring=scoring, cv=4, refit=False).fit(flats[:600], rent[:600])

report = pd.DataFrame(search.cv_results_)
report["target"] = [
    "log rent" if "Transformed" in type(e).__name__ else "rent" for e in report["param_interval__estimator"]
]
print(report.groupby(["target", "param_interval__scale"])["mean_test_score"].max().round(0))

best = search.best_params_["interval__estimator"]
assert isinstance(best, TransformedTargetRegressor)

# %%
settings = {name.removeprefix("interval__"): value for name, value in search.best_params_.items()}
winner = SplitConformalRegressor(**settings, confidence_level=0.9, random_state=0)
flats, new_flats = log_area(flats), log_area(new_flats)
winner.fit_train(flats[:600], rent[:600]).calibrate(flats[600:], rent[600:])
_, interval = winner.predict_interval(new_flats)
print({name: value if isinstance(value, str) else type(value).__name__ for name, value in settings.items()})

# %% [markdown]
# ## 6. Diagnostics of the winner
#
# Coverage on average is promised. Whether it is flat is not, so look. All functions take arrays, of any origin.

# %%
h = winner.leverage(new_flats)
print(f"leverage varies by {leverage_variation(h):.2f} of its mean")
table = coverage_by_leverage(new_rent, interval, h, n_bins=5)
print(table)
print(coverage_gap(new_rent, interval, h))
print(squared_coverage_error(new_rent, interval, h, 0.9, n_calibration=300))
assert len(table.rows) == 5

# %% [markdown]
# The squared error has its noise beside it: what it would be, on average, for a band whose coverage is the same in
# every bin, with so many new rows and calibration rows. Small tables cannot tell good from perfect, and this says when.
#
# The same for bins of width, and for the slab of the numeric columns, found on half of the new rows, in which the other
# half is covered worst:

# %%
print(size_stratified_coverage(new_rent, interval, n_bins=5))
numbers = SimpleImputer().fit_transform(new_flats[["area", "year"]])
slab = worst_slab_coverage(new_rent, interval, numbers, random_state=0)
print(slab)
assert slab.searched_coverage < slab.upper

# %% [markdown]
# Where coverage is not flat over leverage, `leverage_alignment` says which way to turn: scores are errors divided by
# widths, and if they still grow with leverage, the width does not grow enough. The fixed leverage scale goes part of
# the way; `StrengthScale` estimates how far to go, from the training rows.

# %%
verdicts = {}
for scale in ("constant", "leverage", "strength"):
    tried = clone(winner).set_params(scale=scale, geometry="auto")
    tried.fit_train(flats[:600], rent[:600]).calibrate(new_flats, new_rent)
    verdicts[scale] = leverage_alignment(tried.scores_, tried.leverage(new_flats))
    print(f"{scale:9} {verdicts[scale]}")
assert verdicts["constant"].verdict == "under-corrects"
assert verdicts["constant"].ratio > verdicts["leverage"].ratio > verdicts["strength"].ratio

# %% [markdown]
# How much of a width is noise, which stays, and how much is the error of the fit, which more rows would remove? Under
# the model the variance is $\sigma^2 (1 + c h)$, with $c$ = 1 or as estimated. With a transformed target this holds for
# the logarithm, so take that of the ends.

# %%
_, interval = tried.predict_interval(new_flats)
parts = width_decomposition(np.log(interval), tried.leverage(new_flats), strength=tried.scale_.strength_[0])
print(parts)
rare = (new_flats["street"].map(flats[:600]["street"].value_counts()).fillna(0) <= 1).to_numpy()
print(f"streets with at most one training row: {parts.epistemic_share[rare].mean():.2f} of the variance")
assert parts.epistemic_share[rare].mean() > 2 * parts.epistemic_share[~rare].mean()

# %% [markdown]
# ## 7. Rows that are unlike the others
#
# The promise is for rows like the calibration rows. `ExtrapolationGuard` tests that, row by row: the share of
# calibration rows with at least the leverage of the new row is a p-value. What follows from a small one is yours to
# say: flag the row, or withhold its interval. (Leverage sees what the last step sees. To an encoder that ignores
# unknown levels a new street is no street at all, and not far from anything.)

# %%
guard = ExtrapolationGuard.of(winner, flats[600:], false_alarm_rate=0.01)
odd = new_flats[:2].assign(area=[np.log(70.0), np.log(1e7)], street=["street 0", "street 0"])
print(guard.pvalue(winner.leverage(odd)), guard.flag(winner.leverage(odd)))
_, guarded = guard.predict_interval(winner, odd)
print(guarded.round())
assert np.isfinite(guarded[0]).all()
assert np.isinf(guarded[1]).all()
assert guard.flag(h).mean() < 0.03

# %% [markdown]
# And the picture:

# %%
display = LeverageDisplay.from_estimator(winner, new_flats, new_rent.to_numpy(), n_bins=10)
display.axes_[1].set_yscale("log")
assert len(display.bin_coverage) == 10
plt.close("all")
