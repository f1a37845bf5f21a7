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
# # 4. Your own network
#
# Any torch module is a network; anything that can be computed from `(problem, theta)` is a measure, an event or a
# dynamics.

# %%
import numpy as np
import torch

import gradflow as gf

x, y = gf.data.mnist(classes=(0, 1), n=40, pool=2, seed=0)
print(x.shape, y.shape)


# %% [markdown]
# ## A module
#
# Its parameters become one flat vector, in double precision; value and gradient go through torch autograd and are
# stepped by the same solvers.


# %%
class Net(torch.nn.Module):
    """Two small convolutions and a linear layer, for images of 14 x 14 pixels."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 3, 3, stride=2, bias=False)
        self.second = torch.nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.last = torch.nn.Linear(16, 1, bias=False)

    def forward(self, x):
        """Outputs (n, 1) of images (n, 1, 14, 14)."""
        hidden = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.second(hidden)).flatten(1))


problem = gf.Problem(gf.FromModule(Net(), (1, 14, 14)), gf.losses.Logistic(), x, y)
print(problem.describe())

# %% [markdown]
# ## A measure, an event, a stop
#
# A measure can be recorded at the saved points; an event is located on the dense output, to the accuracy of the run.


# %%
def filter_rank(problem, theta):
    """Stable rank of the first layer's filters, |W|_F^2 / |W|_2^2."""
    filters = problem.layers(theta)["first.weight"].reshape(3, 9)
    return float((filters**2).sum() / np.linalg.norm(filters, 2) ** 2)


def smallest_margin(problem, t, theta):
    """The smallest margin: positive once every sample is on its side."""
    return (problem.y[:, 0] * problem.outputs(theta)[:, 0]).min()


theta0 = problem.init(scale=0.7, seed=0)
run = gf.simulate(
    problem,
    theta0,
    gf.GradientFlow(),
    t_end=60.0,
    record={"filter rank": filter_rank},
    events=[gf.Event("all separated", smallest_margin, direction=1)],
    stop=gf.LossBelow(1e-2),
)
run

# %%
figure, axes = gf.plots.subplots(1, 2, figsize=(9, 3.4))
gf.plots.loss(run, axes[0])
axes[1].plot(run.t, run.records["filter rank"])
axes[1].set(xlabel="time $t$", ylabel="stable rank of the first filters")
for crossing in run.events:
    if crossing.name == "all separated":
        gf.plots.reference(axes[0], crossing.t, axis="x")
axes[0].set_title("dashed: all samples on their side")
gf.plots.finish(figure)

# %% [markdown]
# ## A dynamics
#
# A flow is a velocity. Here each layer's gradient is replaced by its direction, $\dot W_l = -G_l / |G_l|$.


# %%
class NormalisedFlow(gf.Flow):
    """Every layer moves at unit speed against its gradient."""

    def velocity(self, problem, t, state):
        """Minus the gradient, each layer divided by its norm."""
        layers = problem.layers(problem.gradient(state))
        return -problem.flatten({name: g / np.linalg.norm(g) for name, g in layers.items()})


unit = gf.simulate(problem, theta0, NormalisedFlow(), t_end=2.0)
print(unit.status, unit.loss[[0, -1]])

# %% [markdown]
# ## Batches of seeds
#
# Starts `(runs, P)` give a `Batch`: every run with its own steps, status and counts, on all cores.

# %%
built_in = gf.Problem(gf.DeepLinear([196, 6, 6, 1]), gf.losses.Square(), x, y)
starts = np.stack([built_in.init(scale=0.2, seed=seed) for seed in range(12)])
batch = gf.simulate(built_in, starts, gf.GradientFlow(), t_end=20.0)
batch

# %%
figure, ax = gf.plots.subplots(figsize=(6, 3.4))
for member in batch:
    ax.semilogy(member.t, member.loss, color=gf.plots.colours(member.dynamics), alpha=0.5, lw=0.9)
ax.set(xlabel="time $t$", ylabel="loss", title="twelve seeds")
gf.plots.finish(figure)

# %% [markdown]
# ## Speed
#
# `problem.describe()` names the kernel. Built-in networks run in compiled code (microseconds per gradient, no Python
# per step); a torch module pays torch's overhead per gradient, most of it independent of the size. So write a module
# as a built-in network where it is one, choose few samples, and let tolerance follow the question.

# %%
for p in (problem, built_in):
    print(p.describe())

# %% [markdown]
# **Next:** the user guide on performance, and the design page on adding networks, losses and dynamics.
