"""A paper: its citation, and its figures as functions with plain keyword arguments."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

INDEPENDENT = Path(__file__).with_name("independent.json")
CITATION = re.compile(
    r"(?P<authors>.+?): (?P<title>.+?)\. (?:[^.]+, )?(?P<year>\d{4})(?:, arXiv (?P<arxiv>[\d.]+\d))?\."
)


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of a paper: a function that returns the matplotlib figure, its data (or not) and its claims.

    Attributes
    ----------
    paper : Paper
        To which it belongs.
    function : callable
        Its keyword arguments have the values of the full figure as defaults.
    claims : int
        How many claims it makes.
    minutes : float
        Usual time at full size.
    small : dict
        Settings of a smaller run.

    Examples
    --------
    >>> import gradflow as gf
    >>> gf.papers.find("weight-norm-diagonal").find("loss-vs-time").defaults["alpha"]
    0.1
    """

    paper: Paper
    function: Callable
    claims: int
    minutes: float
    small: dict

    @property
    def name(self) -> str:
        """The function's name, with dashes."""
        return self.function.__name__.replace("_", "-")

    @property
    def caption(self) -> str:
        """The function's docstring as one paragraph."""
        return " ".join((inspect.getdoc(self.function) or "").split())

    @property
    def defaults(self) -> dict:
        """Keyword arguments with their values at full size."""
        return {name: given.default for name, given in inspect.signature(self.function).parameters.items()}

    def settings(self, size: str = "full", overrides: dict | None = None) -> dict:
        """All arguments of a run."""
        if size not in ("small", "full"):
            raise ValueError(f"size = {size!r}: must be 'small' or 'full'")
        known, overrides = self.defaults, overrides or {}
        for name in overrides:
            if name not in known:
                raise ValueError(
                    f"{self.paper.slug}, figure {self.name}: unknown setting {name!r}; known are {', '.join(known)}"
                )
            if not like(overrides[name], known[name]):
                raise ValueError(
                    f"{self.paper.slug}, figure {self.name}: {name} = {overrides[name]!r} must be like its default,"
                    f" {known[name]!r}"
                )
        return known | (self.small if size == "small" else {}) | overrides


def like(value, default) -> bool:
    """Whether a setting is of the kind of its default: a number, a text, or a sequence of such that is not empty.

    Examples
    --------
    >>> like(3, 0.5), like("abc", 0.5), like([1, 30], (1.0, 3.0)), like((), (1.0, 3.0)), like(5, (1.0, 3.0))
    (True, False, True, False, False)
    """
    if isinstance(default, tuple | list):
        several = isinstance(value, tuple | list) and len(value) > 0
        return several and (not default or all(like(item, default[0]) for item in value))
    for kind in (bool, (int, float), str):
        if isinstance(default, kind):
            return isinstance(value, kind)
    return True


@dataclass(frozen=True, eq=False)
class Paper:
    """A set of figures and claims of one publication.

    Parameters
    ----------
    slug : str
        Its name here: that of its file, with dashes.
    title, authors : str
        As published.
    year : int
        Of publication.
    arxiv : str, optional
        Its arXiv id.
    figures : dict of Figure
        By name; :meth:`figure` fills it.

    Examples
    --------
    >>> paper = Paper("an-example", "A title", "A. Author", 2020)
    >>> @paper.figure(minutes=0.1, claims=1, small={"n": 3})
    ... def sums(n=10):
    ...     "Partial sums."
    >>> paper.figures["sums"].settings("small")
    {'n': 3}
    """

    slug: str
    title: str
    authors: str
    year: int
    arxiv: str | None = None
    figures: dict[str, Figure] = field(default_factory=dict)

    @classmethod
    def cited(cls, module: str, docstring: str | None) -> Paper:
        """Make a paper from the name of its module and the citation that begins the docstring.

        Parameters
        ----------
        module : str
            ``__name__``; the slug is its last part with dashes.
        docstring : str
            ``__doc__``, beginning "Authors: Title. Year, arXiv id."; a journal may stand before the year.

        Raises
        ------
        ValueError
            If the docstring does not begin so.

        Examples
        --------
        >>> paper = Paper.cited("papers.an_example", "A. Author: A title. 2020, arXiv 2001.00001. What is shown.")
        >>> paper.slug, paper.authors, paper.title, paper.year, paper.arxiv
        ('an-example', 'A. Author', 'A title', 2020, '2001.00001')
        """
        found = CITATION.match(" ".join((docstring or "").split()))
        if found is None:
            raise ValueError(f"{module}: the docstring must begin with 'Authors: Title. Year, arXiv id.'")
        slug = module.rpartition(".")[2].replace("_", "-")
        return cls(slug, found["title"], found["authors"], int(found["year"]), found["arxiv"])

    def figure(self, *, minutes: float, claims: int, small: dict | None = None) -> Callable:
        """Register a function as a figure.

        It returns the matplotlib figure, the data as xarray's Dataset takes it (name -> (dimensions, array)), and a
        list of claims; without data those of the drawn lines are stored, see :func:`gradflow.plots.drawn`. Its keyword
        arguments have the values of the full figure as defaults; its docstring is the caption.

        Parameters
        ----------
        minutes : float
            Usual time at full size.
        claims : int
            How many claims it makes.
        small : dict, optional
            Settings of a smaller run, for checks: fewer runs or points, never other numbers that a claim rests on.
        """

        def register(function):
            found = Figure(self, function, claims, minutes, small or {})
            for name, default in found.defaults.items():
                if default is inspect.Parameter.empty:
                    raise TypeError(f"{self.slug}, figure {found.name}: argument {name} needs a default")
            found.settings("full", found.small)
            self.figures[found.name] = found
            return function

        return register

    def independent(self, name: str):
        """Numbers that an independent solver has given, for claims: kept as data in ``papers/independent.json``.

        Parameters
        ----------
        name : str
            Their name there.

        Returns
        -------
        xarray.DataArray
            With coordinates, so that it fits what :func:`gradflow.sweep` returns for some of the same settings.

        Raises
        ------
        ValueError
            If there are none of that name, with the known ones.

        Examples
        --------
        >>> import gradflow as gf
        >>> float(gf.papers.find("weight-norm-diagonal").independent("plain").sel(alpha=0.1))
        0.0966
        """
        from xarray import DataArray

        known = json.loads(INDEPENDENT.read_text()).get(self.slug, {})
        if name not in known:
            raise ValueError(f"{self.slug} has no independent numbers {name!r}; it has {', '.join(known) or 'none'}")
        about = {"long_name": known[name].pop("about")}
        return DataArray.from_dict({**known[name], "attrs": about})

    @property
    def citation(self) -> str:
        """Authors, title, year, arXiv id."""
        arxiv = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.authors}, {self.title}, {self.year}{arxiv}"

    @property
    def claims(self) -> int:
        """Number of claims of all figures."""
        return sum(figure.claims for figure in self.figures.values())

    @property
    def minutes(self) -> float:
        """Usual minutes of all figures at full size."""
        return sum(figure.minutes for figure in self.figures.values())

    def find(self, name: str) -> Figure:
        """Return a figure by its name."""
        if name not in self.figures:
            raise ValueError(f"{self.slug} has no figure {name!r}; its figures are {', '.join(self.figures)}")
        return self.figures[name]

    def taking(self, settings: dict) -> dict[str, dict]:
        """Figures that have one of some settings, by name, each with those that it has; all if none is given.

        Raises
        ------
        ValueError
            If no figure has one of them, with the known ones.

        Examples
        --------
        >>> import gradflow as gf
        >>> gf.papers.find("weight-norm-diagonal").taking({"alpha": 0.2, "eta": 1.0})
        {'loss-vs-time': {'alpha': 0.2}, 'invariant-drift': {'alpha': 0.2, 'eta': 1.0}}
        """
        known = dict.fromkeys(name for figure in self.figures.values() for name in figure.defaults)
        for name in settings:
            if name not in known:
                raise ValueError(f"{self.slug}: no figure has a setting {name!r}; known are {', '.join(known)}")
        taken = {
            figure.name: {name: value for name, value in settings.items() if name in figure.defaults}
            for figure in self.figures.values()
        }
        return {name: own for name, own in taken.items() if own or not settings}

    def __repr__(self):
        return f"<Paper {self.slug}: {self.citation}; figures {', '.join(self.figures)}>"
