"""The command line: what it writes, what it says, its exit codes."""

import os
import subprocess
import sys

import matplotlib
import pytest

import gradflow as gf
from gradflow.cli import main

matplotlib.use("Agg")
SMALL = ["run", "--data", "digits", "--classes", "0,1", "--n", "40", "--network", "64-3-1", "--loss", "logistic"]


def test_run_writes_trajectories_a_picture_and_a_table(tmp_path, capsys):
    out = tmp_path / "first"
    code = main([*SMALL, "--flow", "plain,polar", "--gd", "0.3,0.1", "--t-end", "2", "--out", str(out)])
    assert code == 0
    assert {p.name for p in out.iterdir()} == {
        "plain.nc", "polar.nc", "gd-0.3.nc", "gd-0.1.nc", "overview.png", "summary.txt",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "logistic" in printed
    assert printed.count("done") == 4
    run = gf.Trajectory.load(out / "plain.nc")
    assert run.t_end == 2.0
    assert run.problem.n == 40
    assert main(["info", str(out / "plain.nc")]) == 0
    assert "gradflow" in capsys.readouterr().out


def test_a_run_that_does_not_reach_its_end_gives_one_and_its_name(tmp_path, capsys):
    code = main([*SMALL, "--flow", "", "--gd", "1e9", "--loss", "square", "--t-end", "1e12", "--out", str(tmp_path)])
    assert code == 1
    assert "gd-1e+09 did not reach t = 1e+12: diverged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SMALL, "--t-end", "-1"], "t_end = -1"),
        ([*SMALL, "--t-end", "1", "--flow", "circular"], "unknown; choose from plain, polar"),
        ([*SMALL, "--t-end", "1", "--data", "cifar"], "choose one of digits"),
        ([*SMALL, "--t-end", "1", "--loss", "hinge"], "choose one of square"),
        ([*SMALL, "--t-end", "1", "--gd", "fast"], "must be numbers"),
        ([*SMALL, "--t-end", "1", "--flow", ""], "nothing to run"),
        (["info", "no-such-file.nc"], "does not exist"),
    ],
)
def test_bad_arguments_give_two_and_say_what_is_wrong(arguments, message, tmp_path, capsys):
    out = ["--out", str(tmp_path)] if arguments[0] == "run" else []
    assert main([*arguments, *out]) == 2
    assert message in capsys.readouterr().err


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "gradflow run --data digits" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["fly"])
    assert stop.value.code == 2


def module(*arguments, **pipes):
    """The command line run as a module, in a process of its own."""
    return subprocess.run([sys.executable, "-m", "gradflow", *arguments], check=False, timeout=100, text=True, **pipes)


def test_the_package_runs_as_a_module():
    found = module("papers", capture_output=True)
    assert found.returncode == 0
    assert found.stdout == gf.papers.table() + "\n"
    bad = module("info", "no-such-file.nc", capture_output=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith("gradflow: ")
    assert module("--help", capture_output=True).stdout.startswith("usage: gradflow ")


@pytest.mark.parametrize("argument", ["papers", "--help"])
def test_a_reader_that_goes_away_is_no_error(argument):
    reader, writer = os.pipe()
    os.close(reader)
    gone = module(argument, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert gone.stderr == ""
    assert gone.returncode in ((1,) if argument == "papers" else (0, 1))  # argparse ignores it if not buffered
