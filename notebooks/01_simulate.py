# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Simulate
#
# A network is one flat vector $\theta$. gradflow integrates $\dot\theta = -\nabla F(\theta)$ to a stated accuracy and
# returns a `Trajectory`: where the run went, why it ended, what it conserved. Three flows, from smooth to hard.

# %%
import matplotlib.pyplot as plt
import numpy as np

import gradflow as gf

# %% [markdown]
# ## A deep linear network from small weights
#
# The target has singular values 3, 1.5 and 0.75. From a start of scale 0.02 the loss waits on a plateau near each
# saddle, then one mode at a time is learned; the layers become rank one and align.

# %%
rng = np.random.default_rng(0)
x = rng.standard_normal((60, 6))
left, right = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
y = x @ (left[:, :3] * [3.0, 1.5, 0.75] @ right[:3])

problem = gf.Problem(gf.DeepLinear([6, 6, 6]), gf.losses.Square(half=True), x, y)
problem

# %%
run = gf.simulate(problem, problem.init(scale=0.02, seed=1), gf.GradientFlow(), t_end=40.0)
run

# %% [markdown]
# Every quantity is a function of `(problem, theta)`, computed after the run. Along the flow
# $W_2^\top W_2 - W_1 W_1^\top$ is conserved; `run.drift` says how well the solver kept it.

# %%
figure, axes = gf.plots.subplots(1, 3, figsize=(12, 3.4))
gf.plots.loss(run, axes[0])
gf.plots.singular_values(run, axes[1])
gf.plots.drift(run, axes[2])
gf.plots.finish(figure)

# %%
for t in (2.0, 6.0, 40.0):
    theta = run.at(t)  # any time, by dense output
    ratios = gf.measure.spectral_ratio(problem, theta)
    print(f"t = {t:4.0f}: first singular value over Frobenius norm, layer by layer: {np.round(ratios, 3)}")

# %% [markdown]
# The scale of the start sets the time of the plateaus. (With ipywidgets there is a slider; without, the curves below
# say the same.)


# %%
def from_scale(scale, ax=None):
    """Singular values of the end-to-end map from a start of this scale."""
    run = gf.simulate(problem, problem.init(scale=scale, seed=1), gf.GradientFlow(), t_end=40.0)
    ax = gf.plots.singular_values(run, ax)
    ax.set_xlabel(f"time $t$ (initial scale {scale:g})")
    return ax


figure, axes = gf.plots.subplots(1, 3, figsize=(12, 3.4), sharey=True)
for ax, scale in zip(axes, (1.0, 0.1, 0.001), strict=True):
    from_scale(scale, ax)

# %%
try:
    from ipywidgets import FloatLogSlider, interact
except ImportError:
    print("pip install ipywidgets for the slider")
else:

    def draw(scale):
        """Draw one scale."""
        from_scale(scale)
        plt.show()

    interact(draw, scale=FloatLogSlider(value=0.1, min=-4, max=0, description="scale"))

# %% [markdown]
# ## A ReLU network on real digits
#
# The gradient of a ReLU network jumps where a pre-activation passes zero, and the flow can *slide* along such a kink.
# gradflow follows the differential inclusion: it finds each kink on the dense output, and crosses it or slides.

# %%
digits = gf.data.digits(classes=(0, 1), n=50, seed=0)
relu = gf.Problem(gf.FullyConnected([64, 10, 1]), gf.losses.Square(), *digits)
kinked = gf.simulate(relu, relu.init(0.5, seed=0), gf.GradientFlow(), t_end=5.0)
print(kinked.kinks)
figure, axes = gf.plots.kinks(kinked)

# %% [markdown]
# ## Separable data, to a loss of $10^{-1000}$
#
# Under the logistic loss the weights grow for ever, like $\log t$, and the direction converges to the maximum margin.
# In a *clock* that ticks in $\log L$ the run reaches losses that no float holds; time itself is carried as a logarithm.

# %%
cloud = gf.data.separable(n=30, d=4, margin=0.2, seed=0)
deep = gf.Problem(gf.DeepLinear([4, 6, 5, 1]), gf.losses.Logistic(), *cloud)
late = gf.simulate(deep, deep.init(0.3, seed=0), gf.GradientFlow(), stop=gf.LossBelow(log10=-1000))
print(late.status)
print(f"log10 loss = {late.log10_loss[-1]:.6g}, log10 t = {late.log10_t[-1]:.6g}, {late.counts['gradients']} gradients")
print("first singular value over Frobenius norm:", gf.measure.spectral_ratio(deep, late.end))

# %%
figure, axes = gf.plots.subplots(1, 2, figsize=(9, 3.4))
margin = gf.measure.normalised_margin(deep, late.theta)
axes[0].plot(late.log10_t, late.log10_loss)
axes[0].set(xlabel=r"$\log_{10} t$", ylabel=r"$\log_{10} L$", title="the loss against time")
axes[1].semilogx(-late.log10_loss[late.log10_loss < -0.3], margin[late.log10_loss < -0.3])
axes[1].set(xlabel=r"$-\log_{10} L$", ylabel="normalised margin", title="the margin against the loss")
gf.plots.finish(figure)

# %% [markdown]
# ## Save, load, go on
#
# A run is a netCDF file (xarray reads it). A loaded run goes on as if it had never stopped.

# %%
import tempfile
from pathlib import Path

path = Path(tempfile.mkdtemp()) / "run.nc"
run.save(path)
longer = gf.Trajectory.load(path).extend(80.0)
print(longer.status, longer.t_end, "loss", longer.loss[-1])

# %% [markdown]
# **Next:** [flow against gradient descent](02_flow_vs_gd.ipynb); which clock and which solver when: the user guide;
# [ReLU flows](../docs/relu-flows.md), [clocks](../docs/clocks.md).
