"""The papers' shelf: claims that can fail, settings, stored results, commands."""

import json

import matplotlib
import numpy as np
import pytest

import gradflow as gf
from gradflow.cli import main
from gradflow.papers.index import write_index
from gradflow.papers.many import outcomes, tasks

matplotlib.use("Agg")
QUICK = {"figure": "loss-vs-time", "size": "small"}
SLUG = "weight-norm-diagonal"


@pytest.mark.parametrize(
    ("claim", "passed"),
    [
        (gf.Claim("a", "", 1e-9, below=1e-8), True),
        (gf.Claim("a", "", 1e-7, below=1e-8), False),
        (gf.Claim("a", "", [3.0, 5.0], above=4.0), False),
        (gf.Claim("a", "", [3.0, 5.0], above=3.0, below=5.0), True),
        (gf.Claim("a", "", np.nan, below=1.0), False),
        (gf.Claim("a", "", [0.5, np.nan], below=1.0), False),
        (gf.Claim("a", "", 2.05, expected=2.0, within=0.1), True),
        (gf.Claim("a", "", [2.05, 2.2], expected=2.0, rtol=0.05), False),
        (gf.Claim("a", "", [1.0, 5.0], expected=[1.0, 4.0], within=0.5), False),
        (gf.Claim("a", "", np.bool_(False)), False),
        (gf.Claim("a", "", [True, True]), True),
    ],
)
def test_a_claim_holds_or_fails(claim, passed):
    assert claim.passed is passed
    assert ("FAILED" in str(claim)) is not passed
    again = gf.Claim.from_dict(json.loads(json.dumps(claim.to_dict())))
    assert again.passed is passed
    assert str(again) == str(claim)


def test_a_claim_that_cannot_fail_is_refused():
    with pytest.raises(TypeError, match="needs below="):
        gf.Claim("a", "", 1.0)
    with pytest.raises(ValueError, match="needs a tolerance"):
        gf.Claim("a", "", 1.0, expected=1.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        gf.Claim("a", "", [], below=1.0)


def test_all_papers_are_listed_with_their_files_names():
    papers = gf.papers.known()
    assert len(papers) >= 9
    for slug, paper in papers.items():
        assert paper.slug == slug
        assert slug in gf.papers.table()
        assert paper.claims >= 6, slug
        for figure in paper.figures.values():
            assert len(figure.caption) > 40, (slug, figure.name)
            assert figure.settings("small").keys() == figure.settings("full").keys()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("no-such-paper",), "the papers are .*weight-norm-diagonal"),
        ((SLUG, "no-such-figure"), "its figures are error-vs-scale"),
        ((SLUG, "loss-vs-time", "tiny"), "must be 'small' or 'full'"),
    ],
)
def test_unknown_names_list_the_known_ones(call, message):
    with pytest.raises(ValueError, match=message):
        gf.reproduce(*call, out=None)


def test_unknown_settings_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown setting 'eta'; known are etas, alpha, t_end"):
        gf.reproduce(SLUG, **QUICK, out=None, eta=3)
    with pytest.raises(ValueError, match="no figure has a setting 'etos'; known are alphas, etas, .*steps"):
        gf.reproduce(SLUG, size="small", out=None, etos=(1,))


def test_a_setting_without_a_figure_is_for_all_that_have_it(tmp_path, capsys):
    found = gf.reproduce(SLUG, size="small", out=None, t_end=1.0, steps=(0.1, 0.05))
    assert {name: result.provenance["settings"]["t_end"] for name, result in found.items()} == {
        "loss-vs-time": 1.0,
        "invariant-drift": 1.0,
    }
    assert found["invariant-drift"].provenance["settings"]["steps"] == [0.1, 0.05]
    call = ["reproduce", SLUG, "--size", "small", "--out", str(tmp_path)]
    assert main([*call, "--set", "t_end=2.0", "--set", "eta=2.0"]) == 0
    assert {path.stem.rpartition("-")[0] for path in (tmp_path / SLUG).iterdir()} == {
        "loss-vs-time-small",
        "invariant-drift-small",
    }
    assert main([*call, "--set", "etos=(1,)"]) == 2
    assert "known are alphas" in capsys.readouterr().err
    assert main(["reproduce", "--set", "t_end=2.0"]) == 2
    assert "give its slug" in capsys.readouterr().err


def test_a_second_call_loads_what_the_first_one_stored(tmp_path):
    first = gf.reproduce(SLUG, **QUICK, out=tmp_path, etas=(3,))
    assert not first.loaded
    again = gf.reproduce(SLUG, **QUICK, out=tmp_path, etas=(3,))
    assert again.loaded
    assert again.data.identical(first.data.assign_attrs(again.data.attrs))
    assert list(map(str, again.claims)) == list(map(str, first.claims))
    assert again.figure.get_size_inches() == pytest.approx(first.figure.get_size_inches(), abs=0.02)
    assert not gf.reproduce(SLUG, **QUICK, out=tmp_path, etas=(3,), fresh=True).loaded
    assert not gf.reproduce(SLUG, **QUICK, out=tmp_path, etas=(1,)).loaded
    assert not gf.reproduce(SLUG, **QUICK, out=tmp_path).loaded


def test_stored_results_carry_their_provenance(tmp_path):
    import xarray
    from PIL import Image

    gf.reproduce(SLUG, **QUICK, out=tmp_path, etas=(3,))
    files = {path.suffix: path for path in (tmp_path / SLUG).iterdir()}
    assert set(files) == {".png", ".pdf", ".nc", ".json"}
    facts = json.loads(files[".json"].read_text())["provenance"]
    assert facts["call"] == "gf.reproduce('weight-norm-diagonal', figure='loss-vs-time', size='small', etas=(3,))"
    assert facts["settings"]["etas"] == [3]
    assert {"gradflow", "numpy", "commit"} <= facts["versions"].keys()
    assert "seeds" in facts
    assert json.loads(Image.open(files[".png"]).text["Description"])["key"] == facts["key"]
    assert json.loads(xarray.open_dataset(files[".nc"], engine="h5netcdf").attrs["provenance"])["key"] == facts["key"]
    assert b"gradflow" in files[".pdf"].read_bytes()
    assert files[".png"].stat().st_size < 150_000


def test_a_damaged_store_is_computed_again(tmp_path):
    gf.reproduce(SLUG, **QUICK, out=tmp_path, etas=(3,))
    for path in (tmp_path / SLUG).glob("*.json"):
        path.write_text("{")
    assert not gf.reproduce(SLUG, **QUICK, out=tmp_path, etas=(3,)).loaded


def test_small_results_never_overwrite_full_ones(tmp_path):
    gf.reproduce(SLUG, figure="loss-vs-time", size="small", out=tmp_path)
    gf.reproduce(SLUG, figure="loss-vs-time", out=tmp_path, t_end=5.0)
    stems = {path.stem for path in (tmp_path / SLUG).iterdir()}
    assert "loss-vs-time-small" in stems
    assert "loss-vs-time" not in stems


def test_the_commands_write_print_and_load(tmp_path, capsys):
    call = ["reproduce", SLUG, "--figure", "loss-vs-time", "--size", "small", "--out", str(tmp_path)]
    assert main([*call, "--set", "etas=(3,)"]) == 0
    assert "passed  descent" in capsys.readouterr().out
    assert main([*call, "--set", "etas=(3,)"]) == 0
    assert "same arguments, same code" in capsys.readouterr().out
    assert main([*call, "--set", "nonsense"]) == 2
    assert "must be KEY=VALUE" in capsys.readouterr().err
    assert main(["reproduce", "no-such-paper"]) == 2
    assert "the papers are" in capsys.readouterr().err
    assert main(["papers"]) == 0
    assert SLUG in capsys.readouterr().out


def test_a_figure_without_data_stores_its_lines(monkeypatch):
    def drawn():
        """Two points on a line, with a claim that they are there."""
        fig, ax = gf.plots.subplots()
        gf.plots.lines(ax, [1.0, 2.0], [0.0, 1.0], label="points")
        return fig, [gf.Claim("there", "there are two", 2, below=2)]

    paper = gf.Paper("an-example", "A title", "A. Author", 2020)
    paper.figure(minutes=0.1, claims=1)(drawn)
    monkeypatch.setitem(gf.papers.known(), paper.slug, paper)
    result = gf.reproduce(paper.slug, figure="drawn", out=None)
    assert result.data.panel1.sel(line1="points").values.tolist() == [1.0, 2.0]
    assert result.passed


def test_numbers_of_an_independent_solver_have_coordinates_and_change_the_key(tmp_path, monkeypatch):
    from gradflow.papers import paper, provenance

    known = gf.papers.find(SLUG).independent("cubic")
    assert float(known.sel(eta=1, alpha=0.1)) == 2.45e-2
    assert "polar" in known.attrs["long_name"]
    with pytest.raises(ValueError, match="it has plain, cubic"):
        gf.papers.find(SLUG).independent("no-such-numbers")
    before = provenance.code_digest.__wrapped__("weight_norm_diagonal")
    other = tmp_path / "independent.json"
    other.write_text(paper.INDEPENDENT.read_text() + " ")
    monkeypatch.setattr(provenance, "INDEPENDENT", other)
    assert provenance.code_digest.__wrapped__("weight_norm_diagonal") != before


def test_check_gives_one_where_a_claim_fails(monkeypatch, capsys):
    paper = gf.papers.find(SLUG)
    figure = paper.find("loss-vs-time")

    def wrong(etas=(1,)):
        """A figure with a claim that does not hold."""
        drawn, data, claims = figure.function(etas=etas)
        return drawn, data, [gf.Claim("descent", "fails", 1.0, below=0.0), *claims[1:]]

    monkeypatch.setitem(vars(paper), "figures", {"loss-vs-time": figure})
    assert main(["check", SLUG, "--jobs", "1"]) == 0
    paper.figures["wrong"] = type(figure)(figure.paper, wrong, 2, 0.1, {})
    assert main(["check", SLUG, "--jobs", "1"]) == 1
    assert "FAILED  descent" in capsys.readouterr().out


def test_an_error_in_one_figure_does_not_stop_the_others():
    todo = tasks([SLUG], "loss-vs-time", size="small", overrides={"alpha": -1.0, "t_end": -5.0})
    todo += tasks([SLUG], "loss-vs-time", size="small", overrides={"etas": (3,)})
    bad, good = outcomes(todo)
    assert not bad.passed
    assert bad.error
    assert good.passed


def test_an_interrupt_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    from gradflow.papers import many

    real, calls = many.run, []

    def interrupted(task):
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(many, "run", interrupted)
    monkeypatch.setattr(many, "tasks", lambda *_, **options: 2 * tasks([SLUG], "loss-vs-time", **options))
    assert main(["reproduce", SLUG, "--size", "small", "--out", str(tmp_path)]) == 1
    assert "interrupted: 1 of 2 figures are done and kept" in capsys.readouterr().out
    assert (tmp_path / SLUG / "loss-vs-time-small.json").is_file()


def test_the_index_shows_each_full_figure_with_its_claims(tmp_path):
    result = gf.reproduce(SLUG, **QUICK, out=None)
    result.save(tmp_path / SLUG / "loss-vs-time")
    page = write_index(tmp_path).read_text()
    assert f'<img src="{SLUG}/loss-vs-time.png"' in page
    assert "| descent:" in page
    assert "gf.reproduce(" in page
