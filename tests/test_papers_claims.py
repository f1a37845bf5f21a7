"""The claims of all papers at small size; the quick papers by default, the others as long tests."""

import matplotlib
import pytest

import gradflow as gf

matplotlib.use("Agg")
QUICK = ("flat-minima-deep-linear", "relaxed-variable-splitting", "weight-norm-diagonal")
FIGURES = [(slug, name) for slug, paper in gf.papers.known().items() for name in paper.figures]


@pytest.mark.parametrize(
    ("slug", "name"), [pytest.param(*f, marks=() if f[0] in QUICK else pytest.mark.slow) for f in FIGURES]
)
def test_claims_hold(slug, name):
    result = gf.reproduce(slug, figure=name, size="small", out=None)
    assert result.passed, repr(result)
    assert result.data.sizes
