"""The package itself: light import, typed, names, README examples."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import gradflow as gf

ROOT = Path(__file__).parents[1]


def test_import_loads_nothing_heavy():
    heavy = ("torch", "numba", "scipy.integrate", "xarray", "matplotlib", "sklearn")
    code = f"import sys, gradflow; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in gf.__all__:
        thing = getattr(gf, name)
        assert thing.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'flow'"):
        getattr(gf, "flow")  # noqa: B009


def test_types_are_shipped():
    assert (Path(gf.__file__).parent / "py.typed").is_file()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_readme_and_docs_run(page, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "examples.py"
    blocks = re.findall(r"```(?:python|\{code-cell\} python)\n(.*?)```", page.read_text(), flags=re.S)
    script.write_text("\n".join(blocks))
    runpy.run_path(str(script))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_name_only_files_that_exist(page):
    made = runpy.run_path(str(ROOT / "docs" / "generated_pages.py"))["pages"](ROOT / "docs")
    made = {f"{folder}/{name}" for folder, pages in made.items() for name in pages}
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists() or target in made, target
