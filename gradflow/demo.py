"""The main job: flows beside gradient descent on real digits, and the approach to rank-one, aligned layers."""

from __future__ import annotations

from pathlib import Path

from gradflow import data, losses
from gradflow.compare import Comparison, compare
from gradflow.dynamics import GD, GradientFlow, LMFlow, PolarFlow
from gradflow.networks import DeepLinear, FullyConnected
from gradflow.problem import Problem
from gradflow.report import table
from gradflow.simulate import simulate
from gradflow.trajectory import Trajectory

STEPS = (0.02, 0.01, 0.005)
SCALE = 0.1
T_END = 20.0
POINTS = 400
RELU_SAMPLES = 100
RELU_SCALE = 0.3


def demo(folder: Path) -> int:
    """Run it, print the table, write ``demo.png`` and the trajectories; returns the exit code."""
    store = folder / "demo"
    store.mkdir(parents=True, exist_ok=True)
    x, y = data.digits(classes=(0, 1), seed=0)
    problem = Problem(DeepLinear([64, 20, 20, 1]), losses.Square(), x, y)
    theta0 = problem.init(SCALE, seed=0)
    print("digits 0 against 1\n" + problem.describe(), end="\n\n")
    flows = {"plain flow": GradientFlow(), "polar flow": PolarFlow(), "LM flow": LMFlow()}
    runs = {name: simulate(problem, theta0, flow, t_end=T_END, save_at=POINTS) for name, flow in flows.items()}
    descents, gap = beside_descent(runs["plain flow"], theta0)
    show(runs, descents, gap)
    few = Problem(FullyConnected([64, 20, 1]), losses.Square(), *data.digits(classes=(0, 1), n=RELU_SAMPLES, seed=0))
    print("\n" + few.describe(), end="\n\n")
    start = few.init(RELU_SCALE, seed=0)
    relu = {"relu flow": simulate(few, start, GradientFlow(), t_end=T_END, save_at=POINTS, rtol=1e-7)}
    relu_descents, relu_gap = beside_descent(relu["relu flow"], start)
    relu_descents = {f"relu {name}": run for name, run in relu_descents.items()}
    show(relu, relu_descents, relu_gap)
    print(relu["relu flow"].kinks)
    written = runs | descents | relu | relu_descents
    for name, run in written.items():
        run.save(store / f"{name.replace(' ', '-')}.nc")
    picture(runs, gap).savefig(folder / "demo.png", dpi=110)
    print(f"\nwrote {folder}/demo.png and {len(written)} trajectories to {store}/")
    return 0


def beside_descent(flow: Trajectory, theta0) -> tuple[dict[str, Trajectory], Comparison]:
    """Gradient descent at three step sizes from the start of a flow, and how far it is from it."""
    problem = flow.problem
    descents = {f"GD {h:g}": simulate(problem, theta0, GD(step=h), t_end=T_END, save_at=POINTS) for h in STEPS}
    return descents, compare(flow, list(descents.values()))


def show(flows: dict[str, Trajectory], descents: dict[str, Trajectory], gap: Comparison) -> None:
    """Print the table of some flows and the descents that were compared with the first of them."""
    distances = {name: f"{distance:.3e}" for name, distance in zip(descents, gap.max_distance, strict=True)}
    orders = {name: "" if order != order else f"{order:.3f}" for name, order in zip(descents, gap.order, strict=True)}
    print(table(flows | descents, {f"distance to {next(iter(flows))}": distances, "observed order": orders}))
    print(f"error of the {next(iter(flows))} itself, by a second run at rtol/10: {gap.solver_error.max():.1e}")


def picture(runs: dict[str, Trajectory], gap: Comparison):
    """Loss, rank and alignment of the three flows, and the distance of gradient descent to the plain one."""
    from gradflow import plots

    figure, axes = plots.subplots(2, 2)
    flows, names = list(runs.values()), list(runs)
    plots.loss(flows, axes[0, 0], labels=names)
    plots.spectral_ratio(flows, axes[0, 1], labels=names)
    plots.alignment(flows, axes[1, 0], labels=names)
    plots.gap(gap, axes[1, 1])
    return figure
