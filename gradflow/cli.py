"""The command `gradflow`: run, demo, info; papers, reproduce, check."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from gradflow.papers.commands import add_commands

EXAMPLES = """examples:
  gradflow demo
      plain, polar and LM flow and gradient descent on real digits; writes figures/demo.png
  gradflow run --data digits --classes 0,1 --network 64-20-1 --activation tanh --loss logistic \\
      --flow plain,polar,lm --gd 1.0,0.3,0.1 --t-end 50 --out runs/first
      flows and gradient descent from one start; writes trajectories, a picture and a table
  gradflow info runs/first/plain.nc
      what a stored trajectory holds
  gradflow papers; gradflow reproduce weight-norm-diagonal --size small; gradflow check
      papers on the shelf; a figure made anew; all claims checked

exit codes: 0 done; 1 a run did not reach its end (it is named), or the reader of a pipe has gone; 2 bad arguments
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Examples
    --------
    >>> main(["info", "no-such-file.nc"])
    2
    """
    try:
        try:
            return _answer(arguments)
        finally:
            sys.stdout.flush()  # while a reader that has gone, as `head`, can still be noticed here
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at Python's own end
        return 1


def _answer(arguments) -> int:
    """Exit code of a command, after it has run."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"gradflow: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradflow",
        description="Training dynamics of small neural networks, computed like orbits.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser(
        "run",
        help="flows and discrete runs from one start",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.set_defaults(command=_run)
    run.add_argument("--data", default="digits", help="digits, mnist, diabetes, breast_cancer (default: digits)")
    run.add_argument("--classes", help="classes to keep, for example 0,1")
    run.add_argument("--n", type=int, help="number of samples")
    run.add_argument("--network", required=True, help="widths, for example 64-20-1")
    run.add_argument("--activation", default="tanh", help="of the hidden layers (default: tanh)")
    run.add_argument("--bias", action="store_true", help="give every layer a bias")
    run.add_argument("--loss", default="square", help="square, logistic, exponential, cross-entropy (default: square)")
    run.add_argument("--decay", type=float, default=0.0, help="lambda of lambda |theta|^2; on rho for the LM flow")
    run.add_argument("--flow", default="plain", help="comma-separated: plain, polar, lm, weight-norm (default: plain)")
    run.add_argument("--gd", default="", help="comma-separated step sizes of gradient descent")
    run.add_argument("--t-end", type=float, required=True, help="end time")
    run.add_argument("--scale", type=float, default=0.5, help="of the Gaussian start (default: 0.5)")
    run.add_argument("--seed", type=int, default=0, help="of data and start (default: 0)")
    run.add_argument("--solver", default="auto", help="of the flows (default: auto)")
    run.add_argument("--rtol", type=float, default=1e-8, help="relative tolerance (default: 1e-8)")
    run.add_argument("--max-seconds", type=float, help="cap on the wall clock per run")
    run.add_argument("--out", default="runs/latest", help="folder for the results (default: runs/latest)")
    demo = commands.add_parser("demo", help="the main job on real digits, in under a minute")
    demo.set_defaults(command=_demo)
    demo.add_argument("--out", default="figures", help="folder for demo.png and the trajectories (default: figures)")
    info = commands.add_parser("info", help="what a stored trajectory holds")
    info.set_defaults(command=_info)
    info.add_argument("file", help="a file written by Trajectory.save")
    add_commands(commands)
    return parser


def _run(options) -> int:
    import gradflow as gf
    from gradflow.report import table

    problem = _problem(options)
    dynamics = _dynamics(options)
    theta0 = problem.init(options.scale, seed=options.seed)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    print(problem.describe())
    runs = {}
    for name, rule in dynamics.items():
        target = problem if problem.decay == 0 or not isinstance(rule, gf.LMFlow) else _without_decay(problem)
        solver = "auto" if rule.discrete else options.solver
        runs[name] = gf.simulate(
            target, theta0, rule, t_end=options.t_end, solver=solver, rtol=options.rtol, max_seconds=options.max_seconds
        )
        runs[name].save(folder / f"{name}.nc")
    text = table(runs)
    print("\n" + text)
    (folder / "summary.txt").write_text(problem.describe() + "\n\n" + text + "\n")
    figure, _ = gf.plots.overview(list(runs.values()), labels=list(runs))
    figure.savefig(folder / "overview.png", dpi=150)
    print(f"\nwrote {len(runs)} trajectories, summary.txt and overview.png to {folder}/")
    unfinished = {name: run for name, run in runs.items() if run.status != gf.Status.REACHED_END}
    for name, run in unfinished.items():
        print(f"gradflow: {name} did not reach t = {options.t_end:g}: {run.status}", file=sys.stderr)
    return 1 if unfinished else 0


def _problem(options):
    import gradflow as gf

    loaders = {name: getattr(gf.data, name) for name in ("digits", "mnist", "diabetes", "breast_cancer")}
    if options.data not in loaders:
        raise ValueError(f"--data {options.data}: unknown; choose one of {', '.join(loaders)}")
    widths = _numbers(options.network.replace("-", ","), int, "--network")
    losses = {
        "square": gf.losses.Square,
        "logistic": gf.losses.Logistic,
        "exponential": gf.losses.Exponential,
        "cross-entropy": gf.losses.CrossEntropy,
    }
    if options.loss not in losses:
        raise ValueError(f"--loss {options.loss}: unknown; choose one of {', '.join(losses)}")
    chosen = {"seed": options.seed}
    if options.n is not None:
        chosen["n"] = options.n
    if options.classes:
        chosen["classes"] = tuple(_numbers(options.classes, int, "--classes"))
    x, y = loaders[options.data](**chosen)
    if options.loss == "square" and y.ndim == 1 and widths[-1] > 1:
        y = gf.losses.CrossEntropy().prepare(y, widths[-1])
    count = np.unique(y).size
    if widths[-1] == 1 and y.ndim == 1 and np.issubdtype(y.dtype, np.integer) and count > 2:
        raise ValueError(
            f"--data {options.data} has {count} classes and the network one output: give two of them, --classes 0,1,"
            f" or a network with {count} outputs"
        )
    network = gf.FullyConnected(widths, activation=options.activation, bias=options.bias)
    return gf.Problem(network, losses[options.loss](), x, y, decay=options.decay)


def _without_decay(problem):
    import gradflow as gf

    return gf.Problem(problem.network, problem.loss, problem.x, problem.y)


def _dynamics(options) -> dict:
    import gradflow as gf

    flows = {
        "plain": gf.GradientFlow(),
        "polar": gf.PolarFlow(),
        "lm": gf.LMFlow(decay=options.decay),
        "weight-norm": gf.WeightNormFlow(),
    }
    chosen = {}
    for name in filter(None, options.flow.split(",")):
        if name not in flows:
            raise ValueError(f"--flow {name}: unknown; choose from {', '.join(flows)}")
        chosen[name] = flows[name]
    for step in _numbers(options.gd, float, "--gd"):
        chosen[f"gd-{step:g}"] = gf.GD(step=step)
    if not chosen:
        raise ValueError("nothing to run: give --flow, --gd or both")
    return chosen


def _numbers(text: str, kind, option: str) -> list:
    try:
        return [kind(part) for part in filter(None, text.split(","))]
    except ValueError:
        raise ValueError(f"{option} {text}: must be numbers, as in the examples of --help") from None


def _demo(options) -> int:
    from gradflow.demo import demo

    return demo(Path(options.out))


def _info(options) -> int:
    import gradflow as gf

    run = gf.Trajectory.load(options.file)
    print(run.problem.describe())
    print(run)
    versions = run.config.get("versions", {})
    print("  versions  " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    return 0
