"""Every public name is documented: by numpydoc's rules, with equation or shapes, an example, a place on the site."""

import inspect
import re
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from numpydoc.validate import ERROR_MSGS, validate

import gradflow as gf

ROOT = Path(__file__).parents[1]
MODULES = ("gradflow", *(f"gradflow.{name}" for name in ("clocks", "data", "dynamics", "exact", "kinks", "losses")))
MODULES += ("gradflow.measure", "gradflow.papers", "gradflow.penalties", "gradflow.plots", "gradflow.population")

NOT_ASKED = {
    "ES01": "one line may say everything",
    "SA01": "the page of the reference shows what stands beside a name",
    "PR07": "a type with its shape may say everything",
    "RT03": "so may that of a return value",
    "PR08": "descriptions begin with symbols and names: h > 0, lambda",
    "RT04": "as above",
    "SS02": "so do summaries: simulate",
    "SS05": "takes plural nouns for verbs",
}
CHECKS = ERROR_MSGS.keys() - NOT_ASKED.keys()

WITHOUT_MATHEMATICS = {"Claim", "Figure", "Paper", "Result", "find", "known", "reproduce", "table"}
WITHOUT_MATHEMATICS |= {"Status", "get_threads", "set_threads", "colours", "reference", "style", "finish"}
ENTRY = r"(?:runs|\w{1,4}|\.\.\.)(?: [+-] \w{1,4})?"
EQUATION_OR_SHAPE = re.compile(rf":math:|\.\. math::|\({ENTRY},\)|\({ENTRY}(?:, {ENTRY})+\)|shape of ")


def public() -> dict[str, object]:
    """Dotted name -> function or class, each once, under the first module that has it."""
    found: dict[int, tuple[str, object]] = {}
    for module in map(import_module, MODULES):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
        for name in names:
            thing = getattr(module, name)
            if callable(thing) and not isinstance(thing, ModuleType):
                found.setdefault(id(thing), (f"{module.__name__}.{name}", thing))
    return dict(found.values())


PUBLIC = public()


def is_made_elsewhere(thing) -> bool:
    """Whether users are given objects of a class instead of making them, so that its attributes are documented."""
    return inspect.isclass(thing) and (issubclass(thing, Enum) or "Attributes\n---" in inspect.getdoc(thing))


def test_the_walk_sees_all_that_a_user_can_reach():
    assert len(PUBLIC) > 150
    assert {"gradflow.Problem", "gradflow.losses.Square", "gradflow.papers.find"} <= PUBLIC.keys()
    assert all(f"gradflow.{name}" in MODULES for name in gf.__all__ if isinstance(getattr(gf, name), ModuleType))


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name):
    thing = PUBLIC[name]
    text = inspect.getdoc(thing) or ""
    wrong = [f"{code}: {message}" for code, message in validate(name)["errors"] if code in CHECKS]
    if is_made_elsewhere(thing):
        wrong = [line for line in wrong if not line.startswith("PR01")]
    assert not wrong
    assert ">>> " in text, "no example"
    assert name.rpartition(".")[2] in WITHOUT_MATHEMATICS or EQUATION_OR_SHAPE.search(text), "no equation, no shapes"


def test_every_public_name_has_a_place_in_the_reference():
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.rst"))
    placed = set(re.findall(r"^\.\. auto(?:class|function):: (\S+)$", pages, flags=re.M))
    assert not PUBLIC.keys() - placed


def test_what_is_cited_is_in_the_bibliography():
    identifiers = re.compile(r"arXiv:?\s+?(?=\S)((?:math/)?\d[\d.]+\d)|arXiv:((?:math/)?\d[\d.]+\d)")
    bibliography = (ROOT / "docs" / "references.md").read_text()
    sources = [*(ROOT / "gradflow").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    cited = {"".join(match) for path in sources for match in identifiers.findall(path.read_text())}
    assert len(cited) > 20
    assert not {identifier for identifier in cited if f"abs/{identifier})" not in bibliography} - {"2001.00001"}
