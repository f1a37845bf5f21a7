"""Which papers there are: every module of this folder that has a PAPER."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from gradflow.papers.paper import Paper


@cache
def known() -> dict[str, Paper]:
    """All papers by slug, in order of the alphabet.

    Examples
    --------
    >>> "weight-norm-diagonal" in known()
    True
    """
    package = import_module("gradflow.papers")
    modules = [import_module(f"gradflow.papers.{module.name}") for module in iter_modules(package.__path__)]
    papers = [module.PAPER for module in modules if isinstance(getattr(module, "PAPER", None), Paper)]
    return {paper.slug: paper for paper in sorted(papers, key=lambda paper: paper.slug)}


def find(slug: str) -> Paper:
    """Return a paper by its slug.

    Parameters
    ----------
    slug : str
        As in ``gradflow papers``.

    Returns
    -------
    Paper
        The paper.

    Raises
    ------
    ValueError
        For an unknown slug, with the known ones.

    Examples
    --------
    >>> find("weight-norm-diagonal").year
    2024
    """
    if slug not in known():
        raise ValueError(f"no paper {slug!r}; the papers are {', '.join(known())}")
    return known()[slug]


def module_name(paper: Paper) -> str:
    """File of a paper, without its ending."""
    return paper.slug.replace("-", "_")


def table() -> str:
    """All papers as text: slug, title, year, figures, number of claims, usual minutes.

    Returns
    -------
    str
        What ``gradflow papers`` prints.

    Examples
    --------
    >>> "weight-norm-diagonal" in table()
    True
    """
    lines = []
    for paper in known().values():
        arxiv = f", arXiv {paper.arxiv}" if paper.arxiv else ""
        lines += [f"{paper.slug}  ({paper.year}{arxiv}; {paper.claims} claims, about {paper.minutes:.2g} minutes)"]
        lines += [f"    {paper.title}"]
        lines += [f"    figures: {', '.join(paper.figures)}"]
    return "\n".join(lines)
