"""The commands papers, reproduce and check."""

from __future__ import annotations

import ast
import os
from pathlib import Path


def add_commands(commands) -> None:
    """Add them to the parser of the command line."""
    papers = commands.add_parser("papers", help="list the papers")
    papers.set_defaults(command=_papers)
    make = commands.add_parser("reproduce", help="regenerate figures of a paper, with their claims")
    make.set_defaults(command=_reproduce)
    make.add_argument("slug", nargs="?", help="the paper (gradflow papers lists them); all if left out")
    make.add_argument("--figure", help="one figure (default: all of the paper)")
    make.add_argument("--size", choices=("small", "full"), default="full", help="of the runs (default: full)")
    make.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for the figures that have it")
    make.add_argument("--out", default="figures", help="folder for the results (default: figures)")
    make.add_argument("--fresh", action="store_true", help="compute again what is stored")
    make.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    check = commands.add_parser("check", help="check the claims of papers at small size")
    check.set_defaults(command=_check)
    check.add_argument("slugs", nargs="*", metavar="SLUG", help="the papers (default: all)")
    check.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")


def _papers(options) -> int:
    from gradflow.papers.registry import table

    print(table())
    return 0


def _reproduce(options) -> int:
    import matplotlib

    from gradflow.papers.index import write_index
    from gradflow.papers.many import tasks

    matplotlib.use("Agg")
    overrides = dict(_setting(text) for text in options.set)
    if overrides and not options.slug:
        raise ValueError("--set needs the paper that it is for: give its slug")
    Path(options.out).mkdir(parents=True, exist_ok=True)
    slugs = [options.slug] if options.slug else []
    todo = tasks(slugs, options.figure, size=options.size, overrides=overrides, out=options.out, fresh=options.fresh)
    code = _run(todo, options.jobs)
    if options.slug is None and options.size == "full":
        print(f"wrote {write_index(options.out)}")
    return code


def _check(options) -> int:
    import matplotlib

    from gradflow.papers.many import tasks

    matplotlib.use("Agg")
    return _run(tasks(options.slugs, size="small"), options.jobs)


def _run(todo, jobs) -> int:
    """Run the tasks, print a row per claim; 1 if one fails, 2 if a figure cannot be made with the settings given."""
    from gradflow.papers.many import outcomes

    done = []
    try:
        for outcome in outcomes(todo, jobs):
            done.append(outcome)
            _print_outcome(outcome, f"{len(done)} of {len(todo)}")
    except KeyboardInterrupt:
        kept = "done and kept" if any(task.out for task in todo) else "done"
        print(f"interrupted: {len(done)} of {len(todo)} figures are {kept}")
        return 1
    claims = [claim for outcome in done for claim in outcome.claims]
    errors = sum(outcome.error is not None for outcome in done)
    failed = f"; {errors} figures could not be computed" if errors else ""
    print(f"{sum(claim.passed for claim in claims)} of {len(claims)} claims hold{failed}")
    if any(outcome.error and outcome.task.overrides for outcome in done):
        return 2
    return 0 if all(outcome.passed for outcome in done) else 1


def _print_outcome(outcome, place) -> None:
    task = outcome.task
    where = f"{task.out}/{task.slug}/" if task.out else ""
    how = f"{outcome.seconds:.1f} s" + (f", written to {where}" if where and not outcome.error else "")
    if outcome.loaded:
        how = f"loaded from {where}: same arguments, same code; --fresh computes it again"
    print(f"[{place}] {task.slug} / {task.figure}, {task.size} ({how})", flush=True)
    if outcome.error:
        print(f"  FAILED  {outcome.error}", flush=True)
    for claim in outcome.claims:
        print(f"  {claim}", flush=True)


def _setting(text: str) -> tuple[str, object]:
    """Name and value of KEY=VALUE; the value is a Python literal, else a text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set {text}: must be KEY=VALUE, for example --set 'etas=(1, 30)'")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
