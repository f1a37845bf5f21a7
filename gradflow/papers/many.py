"""Many figures, one after the other or in processes, each with its outcome as soon as it is there."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gradflow.papers.claim import Claim
from gradflow.papers.registry import find, known
from gradflow.papers.reproduce import regenerate


@dataclass(frozen=True)
class Task:
    """One figure to run."""

    slug: str
    figure: str
    size: str
    overrides: dict = field(default_factory=dict)
    out: str | None = None
    fresh: bool = False


@dataclass
class Outcome:
    """What became of a task: claims, or the error."""

    task: Task
    claims: list[Claim]
    seconds: float
    loaded: bool = False
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it ran and all claims hold."""
        return self.error is None and all(claim.passed for claim in self.claims)


def tasks(slugs: Iterable[str], figure: str | None = None, overrides: dict | None = None, **options) -> list[Task]:
    """Tasks for all figures of some papers (of all, if none is named) that have the settings given, or for one."""
    papers = [find(slug) for slug in slugs] or list(known().values())
    if figure is not None and len(papers) != 1:
        owners = [paper.slug for paper in known().values() if figure in paper.figures]
        said = f"papers with a figure of that name: {', '.join(owners)}" if owners else "no paper has such a figure"
        raise ValueError(f"figure {figure!r} is given without its paper: name the paper's slug too; {said}")
    given = overrides or {}
    todo = [
        Task(paper.slug, paper.find(name).name, overrides=own, **options)
        for paper in papers
        for name, own in ({figure: given} if figure else paper.taking(given)).items()
    ]
    for task in todo:
        find(task.slug).find(task.figure).settings(task.size, task.overrides)
    return todo


def run(task: Task) -> Outcome:
    """Run a task; an error becomes part of the outcome, so that the other tasks go on."""
    begin = time.perf_counter()
    try:
        figure = find(task.slug).find(task.figure)
        result = regenerate(figure, task.size, task.overrides, task.out, task.fresh)
    except Exception as error:
        return Outcome(task, [], time.perf_counter() - begin, error=f"{type(error).__name__}: {error}")
    return Outcome(task, result.claims, time.perf_counter() - begin, loaded=result.loaded)


def outcomes(todo: list[Task], jobs: int = 1) -> Iterator[Outcome]:
    """Outcomes in the order in which they are done; the longest tasks start first if there are several processes."""
    if jobs < 1:
        raise ValueError(f"jobs = {jobs}: the number of processes must be at least 1")
    if jobs == 1 or len(todo) < 2:
        yield from map(run, todo)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import active_children, get_context

    todo = sorted(todo, key=lambda task: -find(task.slug).find(task.figure).minutes)
    before = set(active_children())
    pool = ProcessPoolExecutor(min(jobs, len(todo)), mp_context=get_context("spawn"))
    try:
        with _deaf_children():
            futures = [pool.submit(run, task) for task in todo]
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        for child in set(active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Within it processes are started that ignore Ctrl-C, which is for the process that started them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)
