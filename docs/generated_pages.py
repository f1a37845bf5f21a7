"""Pages made from other files of the repository: the gallery of papers and the notebooks. Nothing is computed anew."""

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

from gradflow.papers.claim import Claim
from gradflow.papers.registry import known, module_name

CARD = """:::{{grid-item-card}} {title}
:img-top: {picture}
:img-alt: {figure}
:link: {slug}
:link-type: doc

{authors}, {year}

**{held} of {claims} claims hold**
:::
"""
GALLERY = """# Papers

Papers whose figures gradflow makes anew. Each is one file: the figures, and what the paper claims about them as checks
that can fail. The pictures and numbers here are the stored results of `gradflow reproduce`, at full size; a number that
no longer comes out stops `gradflow check`.

::::{grid} 1 1 2 2
:gutter: 3

"""


def pages(docs: Path) -> dict[str, dict[str, str]]:
    """Folder in docs -> file name -> text."""
    root = docs.parent
    return {"papers": paper_pages(root / "figures"), "notebooks": notebook_pages(root / "notebooks")}


def write(docs: Path) -> None:
    """Write docs/papers/ and docs/notebooks/."""
    for folder, made in pages(docs).items():
        _update(docs / folder, made)


def paper_pages(figures: Path) -> dict[str, str]:
    """File name -> text: the gallery, and one page for each paper with stored figures."""
    cards, pages = [], {}
    for paper in known().values():
        stored = {
            name: json.loads(path.read_text())
            for name in paper.figures
            if (path := figures / paper.slug / f"{name}.json").is_file()
        }
        if not stored:
            continue
        first = next(iter(stored))
        claims = [Claim.from_dict(claim) for record in stored.values() for claim in record["claims"]]
        cards.append(
            CARD.format(
                title=paper.title,
                picture=f"../../figures/{paper.slug}/{first}.png",
                figure=first,
                slug=paper.slug,
                authors=paper.authors,
                year=paper.year,
                held=sum(claim.passed for claim in claims),
                claims=len(claims),
            )
        )
        pages[f"{paper.slug}.md"] = paper_page(paper, stored)
    tree = "\n".join(["::::", "", "```{toctree}", ":hidden:", "", *(name.removesuffix(".md") for name in pages), "```"])
    return {"index.md": GALLERY + "\n".join(cards) + tree + "\n"} | pages


def paper_page(paper, stored: dict) -> str:
    """Citation, story, figures with claims, the file itself."""
    module = import_module(f"gradflow.papers.{module_name(paper)}")
    story = inspect.getdoc(module).partition(f"{paper.year}")[2]
    story = re.sub(r"^(, arXiv [\d.]+\d)?\.\s*", "", story)
    link = f" [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    lines = [f"# {paper.title}", "", f"{paper.authors}, {paper.year}.{link}", "", plain(story), ""]
    for name, record in stored.items():
        facts, claims = record["provenance"], [Claim.from_dict(claim) for claim in record["claims"]]
        picture = f"![{name}](../../figures/{paper.slug}/{name}.png)"
        lines += [f"## {name}", "", picture, "", plain(facts["caption"]), ""]
        lines += ["::::{div} claims", "", "| claim | measured | must be | holds |", "|---|---|---|---|"]
        lines += [
            f"| {plain(claim.sentence)} | {claim.measured} | {plain(claim.condition)} |"
            f" {'yes' if claim.passed else '**no**'} |"
            for claim in claims
        ]
        lines += ["", "::::", "", "```python", facts["call"], "```", "", f"{facts['seconds']} s at full size.", ""]
    path = f"gradflow/papers/{module_name(paper)}.py"
    lines += ["## The file", "", f"`{path}`", "", "```{literalinclude} " + f"../../{path}", ":language: python", "```"]
    return "\n".join([*lines, ""])


def plain(text: str) -> str:
    """Text that means itself in Markdown."""
    return re.sub(r"([\\`*_|<>\[\]{}$#~^])", r"\\\1", " ".join(text.split()))


def notebook_pages(folder: Path) -> dict[str, str]:
    """File name -> text: the list of notebooks, and the notebooks with their links turned to this site."""
    pages = {path.name: path.read_text().replace("](../docs/", "](../") for path in sorted(folder.glob("*.ipynb"))}
    lines = ["# Notebooks", "", "As they lie in `notebooks/`, with their outputs.", "", "```{toctree}", ""]
    return {"index.md": "\n".join([*lines, *(name.removesuffix(".ipynb") for name in pages), "```", ""])} | pages


def _update(folder: Path, pages: dict[str, str]) -> None:
    """Make a folder hold these files and no others; a file that would not change keeps its time."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
