"""Table and figures of the work-precision benchmark."""

import math

AUTO = "gradflow auto"
GRADIENT_PAIRS = {
    "diffrax": ("diffrax",),
    "scipy, numpy gradient": ("scipy DOP853, numpy", "scipy LSODA, numpy", "scipy Radau, numpy"),
    "torchdiffeq, autograd": ("torchdiffeq",),
}
OWN_COLOURS = {
    "auto": "black",
    "dop853": "navy",
    "rk45": "royalblue",
    "adams": "purple",
    "stiff": "darkgreen",
    "stabilised": "limegreen",
}
COLOURS = {
    "scipy": "tab:purple",
    "torchdiffeq": "tab:red",
    "torchode": "tab:pink",
    "CVODE": "tab:brown",
    "numbalsoda": "tab:orange",
    "diffrax": "teal",
}


def seconds_at(points, target) -> float | None:
    """Seconds for an error, by interpolation between the points next to it in error; None if it is not reached.

    A point that is both faster and better counts; if the loosest run is better than the target, its time is taken.
    """
    known = sorted((error, seconds) for _, error, seconds, _ in points if error > 0)
    if not known or known[0][0] > target:
        return None
    best = min(seconds for error, seconds in known if error <= target)
    for (low, slow), (high, fast) in zip(known[:-1], known[1:], strict=True):
        if low <= target < high:
            part = math.log(target / low) / math.log(high / low)
            return min(best, slow * (fast / slow) ** part)
    return best


def fastest(result, target, chosen) -> tuple[str, float] | None:
    """Name and seconds of the fastest of the rows that ``chosen(name, row)`` takes."""
    found = [
        (seconds, name)
        for name, row in result["rows"].items()
        if chosen(name, row) and (seconds := seconds_at(row["points"], target)) is not None
    ]
    return min(found)[::-1] if found else None


def by_hand(name, row) -> bool:
    """Whether a row is a solver of gradflow chosen by hand."""
    return row["own"] and not name.startswith(AUTO)


def write_report(results, ensembles) -> str:
    """The whole Markdown page."""
    parts = ["# Work and precision\n", *(_machine(results + ensembles) if results else [])]
    parts += _ratios(results) + _ensemble(ensembles) + _groups(results) + _control(results) + _shares(results)
    for result in results:
        parts += _table(result)
    return "\n".join(parts) + "\n"


def _machine(results) -> list[str]:
    machine = results[0]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "gradflow")
    runs = "; ".join(
        f"{r['problem']} {r['machine']['day']} at {r['machine']['commit']}, load {r['machine']['load']}"
        for r in results
    )
    return [
        f"{machine['processor']}, {machine['cores']} cores; {machine['system']}; Python {machine['python']};"
        f" {', '.join(machine['blas'])}; {versions}.\n",
        f"gradflow's commit and the load of the machine: {runs}.\n",
        "Processor time of one thread, least of up to five rounds in which all contenders take turns; compilation and"
        " set-up excluded; every solver returns the state at T only. Error: |theta(T) - reference| / |reference|."
        " Seconds at an error: interpolated on the points (error, seconds). rtol is swept, atol = rtol/100 for the"
        " others, gradflow's default for gradflow.\n",
    ]


def _ratios(results) -> list[str]:
    lines = [
        "## gradflow against the best peer at equal error\n",
        "Ratio of times, above 1: gradflow is faster. A peer gets gradflow's compiled gradient on the data where it can"
        " take one. by hand: the fastest of gradflow's solvers. The last column should not exceed 1.3.\n",
        "| problem | error | auto, ms | by hand, ms | best peer, ms | ratio auto | ratio by hand | must | aim |"
        " auto / by hand |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for number, target in enumerate(result["targets"]):
            auto = fastest(result, target, lambda name, row: name == AUTO)
            hand = fastest(result, target, by_hand)
            peer = fastest(result, target, lambda name, row: not row["own"])
            asked = [f"{wanted[number]:g}" if wanted else "" for wanted in (result["must"], result["aim"])]
            lines.append(
                f"| {result['problem']} | {target:.0e} | {_ms(auto)} | {_named(hand)} | {_named(peer)} |"
                f" {_ratio(peer, auto)} | {_ratio(peer, hand)} | {asked[0]} | {asked[1]} | {_ratio(auto, hand)} |"
            )
    return [*lines, ""]


def _ms(found) -> str:
    return "-" if found is None else f"{1e3 * found[1]:.3g}"


def _named(found) -> str:
    return "-" if found is None else f"{1e3 * found[1]:.3g} ({found[0].removeprefix('gradflow ')})"


def _ratio(slow, fast) -> str:
    return "-" if slow is None or fast is None else f"{slow[1] / fast[1]:.2f}"


def _groups(results) -> list[str]:
    """Ratios of auto to the usual choices."""
    lines = [
        "## gradflow auto against the usual choices at equal error\n",
        "| problem | error | " + " | ".join(GRADIENT_PAIRS) + " |",
        "|---|---|" + "---|" * len(GRADIENT_PAIRS),
    ]
    for result in results:
        for target in result["targets"]:
            auto = fastest(result, target, lambda name, row: name == AUTO)
            cells = [
                _ratio(fastest(result, target, lambda name, row, p=prefixes: name.startswith(p)), auto)
                for prefixes in GRADIENT_PAIRS.values()
            ]
            lines.append(f"| {result['problem']} | {target:.0e} | {' | '.join(cells)} |")
    return [*lines, ""]


def _control(results) -> list[str]:
    """Achieved error over rtol of the default solver."""
    lines = ["## Achieved error / rtol of gradflow auto\n"]
    tolerances = sorted({point[0] for result in results for point in _points(result, AUTO)}, reverse=True)
    lines += ["| problem | " + " | ".join(f"{t:.0e}" for t in tolerances) + " | reference |"]
    lines += ["|---|" + "---|" * (len(tolerances) + 1)]
    for result in results:
        errors = {tolerance: error / tolerance for tolerance, error, _, _ in _points(result, AUTO)}
        cells = " | ".join(f"{errors[t]:.2g}" if t in errors else "" for t in tolerances)
        how = result["reference"]
        text = f"{how['method']} at {how['rtol']:g}; gradflow's own is {how['distance_to_gradflow']:.0e} away"
        lines.append(f"| {result['problem']} | {cells} | {text} |")
    return [*lines, ""]


def _points(result, name) -> list:
    return result["rows"].get(name, {"points": []})["points"]


def _shares(results) -> list[str]:
    """How much of a run of the default solver is gradients."""
    lines = [
        "## Time inside gradients\n",
        "gradflow auto at rtol 1e-8, or the least above it that was measured: gradients and Hessian products counted,"
        " times the cost of one gradient called from compiled code, over the time of the run.\n",
        "| problem | kernel | one gradient, us | gradients | run, ms | share |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        points = {tolerance: (seconds, count) for tolerance, _, seconds, count in _points(result, AUTO)}
        wanted = min((t for t in points if t > 9e-9 and not (result["targets"] == [1e-3] and t < 9e-6)), default=None)
        if wanted is None:
            continue
        seconds, count = points[wanted]
        each = result["gradient_seconds"]
        lines.append(
            f"| {result['problem']} | {result['kernel']} | {1e6 * each:.3g} | {count} | {1e3 * seconds:.3g} |"
            f" {100 * each * count / seconds:.0f} % |"
        )
    return [*lines, ""]


def _ensemble(ensembles) -> list[str]:
    lines = []
    for result in ensembles:
        own = result["rows"][AUTO]
        lines += [
            f"## Ensemble: {result['about']}\n",
            "Flows per second of one core. Ratio: gradflow auto at the peer's achieved error, over the peer. Asked:"
            " 15 (aim 30) against torchode, 50 (aim 100) against diffrax. ![flows per second](ensemble.png)\n",
            "| contender | rtol | largest error | flows/s | ratio at equal error |",
            "|---|---|---|---|---|",
        ]
        for name, points in result["rows"].items():
            for tolerance, error, rate in points:
                ratio = "" if name == AUTO else _rate_ratio(own, error, rate)
                lines.append(f"| {name} | {tolerance:.0e} | {error:.1e} | {rate:.4g} | {ratio} |")
        lines.append("")
    return lines


def _rate_ratio(own, error, rate) -> str:
    mine = seconds_at([[t, e, 1.0 / r, 0] for t, e, r in own], error)
    return "-" if mine is None else f"{1.0 / mine / rate:.1f}"


def _table(result) -> list[str]:
    targets = result["targets"]
    lines = [
        f"## {result['problem']}: {result['about']}\n",
        f"{result['parameters']} parameters. ![work and precision]({result['problem']}.png)\n",
        "| contender | " + " | ".join(f"ms at {t:.0e}" for t in targets) + " | rtol: ms, gradients, error | note |",
        "|---|" + "---|" * (len(targets) + 2),
    ]

    def order(item):
        times = [seconds_at(item[1]["points"], target) for target in targets]
        return [math.inf if t is None else t for t in times]

    for name, row in sorted(result["rows"].items(), key=order):
        times = [seconds_at(row["points"], target) for target in targets]
        cells = " | ".join("-" if t is None else f"{1e3 * t:.3g}" for t in times)
        points = "; ".join(f"{t:.0e}: {1e3 * s:.3g}, {g}, {e:.1e}" for t, e, s, g in row["points"])
        lines.append(f"| {name} | {cells} | {points} | {row['note']} |")
    return [*lines, ""]


def write_figure(result, path) -> None:
    """Seconds against achieved error: gradflow in strong lines, one colour for each other library."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9.0, 5.5), layout="constrained")
    seen: dict[str, int] = {}
    for name, row in result["rows"].items():
        library, _, method = name.partition(" ")
        if not row["points"] or method not in OWN_COLOURS and row["own"]:
            continue
        errors = [max(point[1], 1e-16) for point in row["points"]]
        times = [1e3 * point[2] for point in row["points"]]
        seen[library] = seen.get(library, -1) + 1
        if row["own"]:
            style = {"color": OWN_COLOURS[method], "lw": 2.8 if name == AUTO else 1.8, "marker": "o", "ms": 4}
        else:
            style = {"color": COLOURS[library], "lw": 0.9, "ls": "--", "marker": "v^<>sD"[seen[library] % 6], "ms": 5}
        axes.loglog(errors, times, label=name, **style)
    for target in result["targets"]:
        axes.axvline(target, color="0.8", lw=0.8, zorder=0)
    axes.invert_xaxis()
    axes.set_xlabel("achieved error |theta(T) - reference| / |reference|")
    axes.set_ylabel("processor time, ms")
    axes.set_title(f"{result['problem']}: {result['about']}", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_ensemble_figure(result, path) -> None:
    """Flows per second against the largest achieved error; a peer that was run at one tolerance is one point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9.0, 5.0), layout="constrained")
    for number, (name, points) in enumerate(result["rows"].items()):
        errors, rates = [point[1] for point in points], [point[2] for point in points]
        if name == AUTO:
            axes.loglog(errors, rates, color=OWN_COLOURS["auto"], lw=2.8, marker="o", ms=5, label=name)
        else:
            colour = COLOURS[name.partition(" ")[0]]
            axes.loglog(errors, rates, color=colour, ls="--", marker="v^<>sD"[number % 6], ms=8, label=name)
            axes.annotate(f"{rates[0]:.3g}", (errors[0], rates[0]), (8, -3), textcoords="offset points", fontsize=8)
    axes.invert_xaxis()
    axes.set_xlabel("largest achieved error |theta(T) - reference| / |reference|")
    axes.set_ylabel("flows per second of one core")
    axes.set_title(f"ensemble: {result['about']}", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
