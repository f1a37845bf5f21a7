"""reproduce: figures of a paper, computed or loaded, with their claims."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from gradflow.papers.paper import Figure
from gradflow.papers.provenance import provenance, stem
from gradflow.papers.registry import find
from gradflow.papers.result import ENDINGS, Result


def reproduce(
    slug: str,
    figure: str | None = None,
    size: str = "full",
    *,
    out="figures",
    fresh: bool = False,
    **overrides,
) -> Result | dict[str, Result]:
    """Regenerate the figures of a paper and check its claims.

    A result is stored in ``out/slug/`` as PNG, PDF, netCDF and JSON; a second call with the same arguments and the
    same code reads it from there. An interrupt loses only the figure at hand.

    Parameters
    ----------
    slug : str
        Of the paper; ``gf.papers.known()`` lists them.
    figure : str, optional
        Name of one figure; if left out, all of them, or with settings all that have one of these.
    size : {"full", "small"}
        Small runs drop runs and points, not the numbers that a claim rests on.
    out : path or None
        Folder of the results; None: nothing is stored or loaded.
    fresh : bool
        Whether to compute what is stored already.
    **overrides
        Settings of the figures, for example ``etas=(1, 30)``.

    Returns
    -------
    Result, or dict of str to Result if no figure is named

    Raises
    ------
    ValueError
        For an unknown slug, figure or setting, with the known ones.

    Examples
    --------
    >>> import gradflow as gf
    >>> result = gf.reproduce("weight-norm-diagonal", figure="loss-vs-time", size="small", out=None)
    >>> result.claims[0].passed
    True
    """
    if not (out is None or isinstance(out, str | os.PathLike)):
        raise TypeError(f"out = {out!r}: must be a folder, or None to store nothing")
    paper = find(slug)
    if figure is not None:
        return regenerate(paper.find(figure), size, overrides, out, fresh)
    chosen = paper.taking(overrides)
    for name, own in chosen.items():
        paper.find(name).settings(size, own)
    return {name: regenerate(paper.find(name), size, own, out, fresh) for name, own in chosen.items()}


def regenerate(figure: Figure, size: str, overrides: dict, out, fresh: bool) -> Result:
    """One figure, loaded if it is stored with the same key."""
    facts = provenance(figure, size, overrides)
    place = None if out is None else Path(out) / figure.paper.slug / stem(figure, size, overrides)
    if place is not None and not fresh and _is_stored(place, facts["key"]):
        return Result.load(place)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
    result = _computed(figure, size, overrides, facts)
    if place is not None:
        result.save(place)
    return result


def _is_stored(place: Path, key: str) -> bool:
    if not all(Path(f"{place}{ending}").is_file() for ending in ENDINGS):
        return False
    try:
        return json.loads(Path(f"{place}.json").read_text())["provenance"]["key"] == key
    except (ValueError, KeyError):
        return False


def _computed(figure: Figure, size: str, overrides: dict, facts: dict) -> Result:
    """One figure, run in the library's style; an interrupt is raised at once instead of ending one run only."""
    import matplotlib.pyplot as plt
    import xarray

    from gradflow.loop import interrupts_raise
    from gradflow.plots.families import drawn as numbers
    from gradflow.plots.look import style
    from gradflow.plots.panels import finish

    begin = time.perf_counter()
    with style(), interrupts_raise():
        drawn, *given, claims = figure.function(**figure.settings(size, overrides))
        data = given[0] if given else numbers(drawn)
        finish(drawn)
    plt.close(drawn)
    if not overrides and len(claims) != figure.claims:
        raise RuntimeError(f"{figure.paper.slug}, figure {figure.name}: {figure.claims} claims, not {len(claims)}")
    dataset = data if isinstance(data, xarray.Dataset) else xarray.Dataset(data)
    return Result(drawn, dataset, claims, facts | {"seconds": round(time.perf_counter() - begin, 1)})
