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
# # 3. Regenerate a figure
#
# gradflow holds a shelf of papers. Each figure is a function of public calls; each paper's claims are checks that can
# fail, printed with what was measured.

# %%
import numpy as np

import gradflow as gf

for paper in gf.papers.known().values():
    print(f"{paper.slug:36s} {paper.year}  {len(paper.figures)} figures, {paper.claims} claims")

# %% [markdown]
# ## One call
#
# Weight normalisation on a diagonal network finds the sparse solution from large starts, where the plain flow does
# not. Nothing is read from disk here: `out=None` computes all.

# %%
result = gf.reproduce("weight-norm-diagonal", figure="error-vs-scale", size="small", out=None)
for claim in result.claims:
    print(claim)

# %%
result.figure

# %% [markdown]
# The data behind the picture is an xarray data set.

# %%
result.data

# %% [markdown]
# ## Change one argument
#
# Every setting of a figure is a keyword. Claims whose numbers still apply are checked anew.

# %%
other = gf.reproduce("weight-norm-diagonal", figure="loss-vs-time", size="small", out=None, etas=(1, 30))
for claim in other.claims:
    print(claim)
other.figure

# %% [markdown]
# ## A new paper in 40 lines
#
# Saxe, McClelland and Ganguli (arXiv 1312.6120): in a deep linear network with whitened inputs each mode is learned on
# a sigmoid of its own, at a time of order $1/s$ for a singular value $s$. In a file `gradflow/papers/sigmoids.py` the
# lines below put the paper on the shelf: `gradflow reproduce`, `gradflow check` and the gallery find it there.

# %%
SAXE = gf.Paper("sigmoids", "Exact solutions to deep linear learning", "A. Saxe et al.", 2013, "1312.6120")


@SAXE.figure(minutes=0.1, claims=3, small={"scales": (1e-2, 1e-4)})
def modes(strengths=(4.0, 2.0, 1.0), scales=(1e-2, 1e-3, 1e-4)):
    """Each mode is learned on its own sigmoid (dots: closed form); its time grows with the log of the scale."""
    x, y = gf.data.whitened_modes(strengths)
    size = len(strengths)
    problem = gf.Problem(gf.DeepLinear([size] * 3), gf.losses.Square(half=True), x, y)
    fig, axes = gf.plots.subplots(1, len(scales), sharey=True)
    errors, drifts, times = [], [], np.empty((len(scales), size))
    for ax, scale, row in zip(np.ravel(axes), scales, times, strict=True):
        start = problem.init(scale, scheme="aligned")
        run = gf.simulate(problem, start, gf.GradientFlow(), t_end=12.0, save_at=200, rtol=1e-10)
        found = gf.measure.singular_values(problem, run.theta)
        exact = gf.exact.deep_linear_modes(run.t, strengths, scale)
        errors.append(abs(found - exact).max())
        drifts.append(run.max_drift)
        row[:] = [np.interp(s / 2, mode, run.t) for mode, s in zip(found.T, strengths, strict=True)]
        ax.plot(run.t, found)
        ax.set_prop_cycle(None)
        ax.plot(run.t[::8], exact[::8], ".")
        ax.set(xlabel="time $t$", title=f"scale {scale:g}")
    np.ravel(axes)[0].set_ylabel("singular values of $W_2 W_1$")
    delay = np.diff(times, axis=0) * strengths / np.log(np.array(scales[:-1]) / scales[1:])[:, None]
    data = {"scale": ("scale", list(scales)), "mode": ("mode", list(strengths)), "time": (("scale", "mode"), times)}
    return fig, data, [
        gf.Claim("sigmoid", "each mode follows its closed form", errors, below=1e-8),
        gf.Claim("balanced", "the layers stay balanced", drifts, below=1e-8),
        gf.Claim("delay", "half of a mode is learned log(1/scale) / (2 s) later", delay, expected=0.5, within=0.01),
    ]  # fmt: skip


figure, data, claims = modes()
for claim in claims:
    print(claim)

# %% [markdown]
# **Next:** [your own network](04_your_own_network.ipynb); the gallery of papers.
