"""What the documentation site is made with: the gallery of papers, the notebooks' pages, the check of links."""

import json
import runpy
from pathlib import Path

import pytest

from gradflow.papers import known

ROOT = Path(__file__).parents[1]
PAGES = runpy.run_path(str(ROOT / "docs" / "generated_pages.py"))
LINKS = runpy.run_path(str(ROOT / "docs" / "check_links.py"))
RECORDS = sorted((ROOT / "figures").glob("*/*.json"))


def test_the_gallery_shows_every_stored_figure_with_every_claim():
    pages = PAGES["paper_pages"](ROOT / "figures")
    assert len(RECORDS) > 20
    for path in RECORDS:
        slug, stored = path.parent.name, json.loads(path.read_text())
        section = pages[f"{slug}.md"].partition(f"\n## {path.stem}\n")[2].partition("\n## ")[0]
        assert f"figures/{slug}/{path.stem}.png" in section
        assert stored["provenance"]["call"] in section
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert len(rows) == len(stored["claims"])
        assert [row.endswith("| yes |") for row in rows] == [claim["passed"] for claim in stored["claims"]]
        assert f":link: {slug}\n" in pages["index.md"]


def test_a_claim_that_fails_is_shown_as_failing():
    paper = known()["weight-norm-diagonal"]
    stored = json.loads((ROOT / "figures" / paper.slug / "loss-vs-time.json").read_text())
    stored["claims"][0] |= {"value": 1.0, "below": 1e-9}
    assert "| 1 | \\<= 1e-09 | **no** |" in PAGES["paper_page"](paper, {"loss-vs-time": stored})


def test_links_of_notebooks_lead_to_the_site(tmp_path):
    (tmp_path / "first.ipynb").write_text('{"source": ["[flows](../docs/relu-flows.md)"]}')
    pages = PAGES["notebook_pages"](tmp_path)
    assert pages["first.ipynb"] == '{"source": ["[flows](../relu-flows.md)"]}'
    assert "\nfirst\n" in pages["index.md"]


def test_pages_that_are_no_longer_made_go_away(tmp_path):
    (tmp_path / "old.md").write_text("old")
    PAGES["_update"](tmp_path, {"new.md": "new"})
    assert [path.name for path in tmp_path.iterdir()] == ["new.md"]


@pytest.mark.parametrize(
    ("link", "wrong"),
    [("b.html", 0), ("b.html#place", 0), ("#own", 0), ("https://example.org/", 0), ("c.html", 1), ("b.html#no", 1)],
)
def test_links_inside_a_site_are_followed(tmp_path, link, wrong):
    (tmp_path / "a.html").write_text(f'<a id="own" href="{link}">x</a>')
    (tmp_path / "b.html").write_text('<h1 id="place">x</h1>')
    assert len(LINKS["broken"](tmp_path)[1]) == wrong
