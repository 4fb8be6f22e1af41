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
# # PyTorch in 30 lines: a trained network gets calibrated intervals
#
# You have a trained `nn.Module` and two `DataLoader`s. This tutorial puts intervals around its predictions that hold
# with a stated probability and that are wide where the network has not been. The network is used as it is: no
# retraining, no dropout at prediction, no second network. Everything runs on a CPU within a minute.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hatband.diagnostics import leverage_stability
from hatband.diagnostics.stability import ensemble_means, run_leverages, spread_reading
from hatband.nn import (
    MLP,
    EnsembleConformalRegressor,
    LastLayerConformalRegressor,
    NeuralConformalRegressor,
    fit_ensemble,
    fit_network,
)
from hatband.formulas.order_statistics import conformal_quantile

# %% [markdown]
# ## 1. Thirty lines
#
# First what you have already: data, loaders, and a network trained in a loop of your own. There are no rows between -1
# and 1, and none beyond -3 and 3.

# %%
torch.manual_seed(0)


def rows(n):
    """A cosine with noise, on [-3, -1] and on [1, 3]."""
    x = (1 + 2 * torch.rand(n, 1)) * torch.where(torch.rand(n, 1) < 0.5, -1.0, 1.0)
    return x, torch.cos(2 * x) + 0.1 * torch.randn(n, 1)


train_loader = DataLoader(TensorDataset(*rows(600)), batch_size=64, shuffle=True)
calibration_loader = DataLoader(TensorDataset(*rows(500)), batch_size=64)

net = nn.Sequential(nn.Linear(1, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(120):
    for x, y in train_loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()

# %% [markdown]
# And this is all that is new. `fit_train` makes one pass over the rows that the network was trained on and measures the
# features that enter its last layer; `calibrate` takes the threshold from rows that it has not seen.

# %%
model = LastLayerConformalRegressor(net, scale="leverage", confidence_level=0.9)
model.fit_train(train_loader).calibrate(calibration_loader)

x_new, y_new = rows(2000)
y_pred, interval = model.predict_interval(x_new)
inside = (interval[..., 0] <= y_new.numpy()) & (y_new.numpy() <= interval[..., 1])
print(f"covers {inside.mean():.1%} of 2,000 new rows")
assert 0.84 < inside.mean() < 0.96

# %% [markdown]
# A linear last layer $f(x) = W\phi(x) + b$ is a linear model on the features $\phi(x)$ that the other layers compute.
# So it has a leverage $h(x) = \phi(x)'(\Phi'\Phi + \lambda I)^{-1}\phi(x)$: how far $\phi(x)$ lies from the features of
# the training rows. The interval is $f(x) \pm q\sqrt{1 + h(x)}$, and $q$ is an order statistic of
# $|y - f(x)| / \sqrt{1 + h(x)}$ over the calibration rows. That makes it valid for any network, well trained or not.
#
# ## 2. Where the network has not been
#
# Beside it, on the same rows: a constant width around the same network, and conformalised quantile regression (CQR)
# with boosted trees, which learns the width from the data, and so has nothing to say where there are none.

# %%
grid = torch.linspace(-6, 6, 241)[:, None]
constant = LastLayerConformalRegressor(net, scale="constant").fit_train(train_loader).calibrate(calibration_loader)

(x_train, y_train), (x_cal, y_cal) = (
    (loader.dataset.tensors[0].numpy(), loader.dataset.tensors[1].numpy()[:, 0])
    for loader in (train_loader, calibration_loader)
)
low, high = (
    HistGradientBoostingRegressor(loss="quantile", quantile=level, max_iter=50, random_state=0).fit(x_train, y_train)
    for level in (0.05, 0.95)
)
scores = np.maximum(low.predict(x_cal) - y_cal, y_cal - high.predict(x_cal))
margin = conformal_quantile(scores[:, None], 0.9)[0]

bands = {
    "leverage of the last layer": model.predict_interval(grid)[1][:, 0],
    "constant": constant.predict_interval(grid)[1][:, 0],
    "CQR": np.column_stack([low.predict(grid.numpy()) - margin, high.predict(grid.numpy()) + margin]),
}

figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
for (name, band), ax in zip(bands.items(), axes, strict=True):
    ax.plot(x_train, y_train, ".", color="0.6", markersize=2)
    ax.fill_between(grid[:, 0], *band.T, alpha=0.3)
    ax.set(title=name, xlabel="x", ylim=(-4, 4))

# %%
place = grid[:, 0].abs().numpy()
parts = {"among the rows": (place > 1.2) & (place < 2.8), "in the gap": place < 0.5, "beyond": place > 4}
for name, band in bands.items():
    width = np.diff(band)[:, 0]
    print(
        f"{name:27}", {part: f"{width[where].min():.2f} to {width[where].max():.2f}" for part, where in parts.items()}
    )

width = {name: np.diff(band)[:, 0] for name, band in bands.items()}
among, gap, beyond = parts.values()
assert width["leverage of the last layer"][gap].min() > 1.3 * width["leverage of the last layer"][among].max()
assert width["leverage of the last layer"][beyond].min() > 2 * width["leverage of the last layer"][among].max()
assert np.ptp(width["constant"]) < 1e-5
assert width["CQR"][gap | beyond].max() < 1.3 * width["CQR"][among].max()

# %% [markdown]
# The promise is about new rows *like the calibration rows*; there is none for the gap, whatever the method. The band of
# leverage says at least that the network is guessing there.
#
# ## 3. No network yet? Train one for a table
#
# `NeuralConformalRegressor` is a scikit-learn estimator: it standardises inputs and target, trains a perceptron with
# early stopping, and calibrates, each on rows of its own.

# %%
X, y = load_diabetes(return_X_y=True)
table_model = NeuralConformalRegressor(widths=(32, 32), scale="leverage", random_state=0).fit(X[:350], y[:350])
y_pred, interval = table_model.predict_interval(X[350:])
inside = (interval[:, 0] <= y[350:]) & (y[350:] <= interval[:, 1])
history = table_model.history_
print(f"stopped after {len(history.epochs)} epochs; covers {inside.mean():.1%}, width {np.diff(interval).mean():.0f}")
assert inside.mean() > 0.78

# %% [markdown]
# The pieces by hand: an `MLP` with a second head for the noise, trained by the Gaussian likelihood, with a progress
# report. It works for any module of yours that returns one value per row; a loss that becomes NaN is an error, and
# leaves the weights as they were.


# %%
def report(epoch):
    """Print every tenth epoch."""
    if epoch.number % 10 == 0:
        print(f"epoch {epoch.number}: training {epoch.training_loss:.3f}, held out {epoch.validation_loss:.3f}")


torch.manual_seed(1)
noisy = MLP(10, widths=(32,), noise_head=True)
history = fit_network(noisy, X[:350], y[:350], loss="gaussian", epochs=60, random_state=0, progress=report)
assert history.best_epoch <= len(history.epochs)
assert noisy.eval().noise(torch.tensor(X[350:])).min() > 0

# %% [markdown]
# ## 4. Does leverage depend on the training run?
#
# The features of a network depend on its first weights, and leverage with them. Rotating or scaling all features
# changes nothing, because the ridge is a share of their mean square; what is left shows when the same network is
# trained several times. Averaging over networks helps.

# %%
x_train, y_train = train_loader.dataset.tensors
nets = fit_ensemble(lambda: MLP(1, activation="gelu"), x_train, y_train, n_networks=6, epochs=100, random_state=0)
members = [LastLayerConformalRegressor(one, scale="leverage").fit_train(x_train) for one in nets]
h = run_leverages(members, grid)
single = leverage_stability(h)
threes = leverage_stability(ensemble_means(h, 3))
print(f"rank correlation of leverage: {single.mean_correlation:.3f} between two networks")
print(f"                              {threes.mean_correlation:.3f} between means of three")
print(f"eta = std(h) / mean(h) on the grid: {single.mean_spread:.1f}, {spread_reading(single.mean_spread)}")
assert single.mean_correlation > 0.8

# %% [markdown]
# `EnsembleConformalRegressor` makes one band of them: the mean prediction, and the mean of their widths.

# %%
ensemble = EnsembleConformalRegressor(nets, scale="leverage").fit_train(train_loader).calibrate(calibration_loader)
band = np.diff(ensemble.predict_interval(grid)[1])[:, 0].ravel()
assert band[gap].min() > 1.1 * band[among].max()
assert band[beyond].min() > 1.5 * band[among].max()
plt.close("all")
