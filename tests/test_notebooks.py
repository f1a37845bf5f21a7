"""The notebooks run from top to bottom, and their two forms say the same."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")
SCRIPTS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
QUICK = ("03_regenerate_a_figure", "04_your_own_network")


def cells(script):
    """Code and text cells of a script in percent form."""
    found = re.split(r"^# %%(?: \[markdown\])?\n", script.read_text(), flags=re.MULTILINE)
    return [cell.strip() for cell in found[1:]]


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, marks=() if s.stem in QUICK else pytest.mark.slow, id=s.stem) for s in SCRIPTS],
)
def test_every_cell_runs(script):
    exec(compile(script.read_text(), script.name, "exec"), {"__name__": script.stem})
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_notebook_has_the_cells_of_its_script_and_outputs_without_errors(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text())["cells"]
    texts = ["".join(cell["source"]).strip() for cell in notebook]
    plain = [re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells(script)]
    code = [cell["cell_type"] == "code" for cell in notebook]
    assert texts == [c if is_code else p for c, p, is_code in zip(cells(script), plain, code, strict=True)]
    outputs = [output for cell in notebook for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)
