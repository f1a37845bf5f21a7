"""What the commands of the papers say, and their exit codes."""

import os
import re
import signal
import subprocess
import sys

import pytest

import gradflow as gf
from gradflow.cli import main
from gradflow.papers.many import tasks

SLUG = "weight-norm-diagonal"
CALL = ["reproduce", SLUG, "--figure", "loss-vs-time", "--size", "small"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("foo=1", "unknown setting 'foo'; known are"),
        ("alpha=abc", "alpha = 'abc' must be like its default, 0.1"),
        ("etas=5", "etas = 5 must be like its default"),
        ("etas=()", "etas = () must be like its default"),
    ],
)
def test_settings_are_checked_before_anything_runs(setting, said, tmp_path, capsys):
    assert main([*CALL, "--set", setting, "--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert not list(tmp_path.rglob("*.png"))


def test_a_setting_that_a_figure_refuses_is_a_bad_argument(tmp_path, capsys):
    assert main([*CALL, "--set", "t_end=-5", "--out", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert "t_end" in out
    assert "written" not in out


def test_a_folder_that_cannot_be_made_is_refused_first(capsys, monkeypatch):
    monkeypatch.setattr("gradflow.papers.many.run", lambda task: pytest.fail("it ran"))
    assert main([*CALL, "--out", "/dev/null/x"]) == 2
    assert "/dev/null/x" in capsys.readouterr().err
    with pytest.raises(TypeError, match="out = 3: must be a folder"):
        gf.reproduce(SLUG, "loss-vs-time", "small", out=3)


def test_a_figure_without_its_paper_asks_for_the_slug(capsys, tmp_path):
    assert main(["reproduce", "--figure", "loss-vs-time", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "name the paper's slug too" in said
    assert SLUG in said
    with pytest.raises(ValueError, match="no paper has such a figure"):
        tasks([], "nothing", size="small")


INTERRUPTED = """
import sys, time
from gradflow.papers import many
from gradflow.papers.commands import _run

def endless(task):
    print("begun", end="", flush=True)
    time.sleep(600)

many.run = endless
if __name__ == "__main__":
    todo = many.tasks(["weight-norm-diagonal"], size="small")
    sys.exit(_run(todo, 2))
"""


@pytest.mark.parametrize("wait_for", [1, 2])
def test_ctrl_c_ends_the_processes_without_their_tracebacks(tmp_path, wait_for):
    script = tmp_path / "endless.py"
    script.write_text(INTERRUPTED)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, str(script)], **pipes)
    assert process.stdout.read(5 * wait_for) == "begun" * wait_for
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"interrupted: 0 of \d figures are done\n", out)
    assert err == ""
