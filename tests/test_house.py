"""The package itself: light import, typed, names, README examples."""

import re
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


def readme_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


@pytest.mark.parametrize("index", range(len(readme_blocks())))
def test_readme_examples_run(index, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    exec(compile(readme_blocks()[index], f"README block {index}", "exec"), {})


def test_readme_names_only_files_that_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
