"""Batches of runs that need more than steps: each run of a batch equals the same run alone."""

import numpy as np
import pytest
from cases import make

import gradflow as gf

FLOW = gf.GradientFlow()
SEPARABLE = {"network": gf.DeepLinear([3, 3, 1]), "loss": "logistic", "n": 3}
SMOOTH = {"network": gf.FullyConnected([3, 4, 1], "tanh"), "loss": "square", "n": 5}
RELU = {"network": gf.FullyConnected([3, 6, 1], "relu", bias=True), "loss": "square", "n": 4}
CASES = {
    "clock": (SEPARABLE, {"t_end": 1e6, "clock": "log_time"}),
    "end in another variable": (SEPARABLE, {"t_end": gf.at(log10_t=8), "solver": "dop853", "max_gradients": 3000}),
    "kinks": (RELU, {"t_end": 1.0}),
    "records": (SMOOTH, {"t_end": 1.0, "record": {"norm": (lambda problem, theta: theta @ theta, [0.25, 0.5])}}),
    "events": (SMOOTH, {"t_end": 1.0, "events": [gf.Event("early", lambda problem, t, theta: t - 0.3)]}),
    "stops": (SMOOTH, {"stop": gf.GradientBelow(0.05)}),
    "steps": (SMOOTH, {"t_end": 1.0, "save_at": "steps"}),
    "caps": (SMOOTH, {"t_end": 1.0, "max_seconds": 60.0}),
    "per parameter": (SMOOTH, {"t_end": 1.0, "atol": np.full(16, 1e-9)}),
    "conserve": ({"network": gf.DeepLinear([3, 3, 1]), "loss": "square", "n": 5}, {"t_end": 1.0, "conserve": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_run_of_a_batch_equals_the_run_alone(case):
    what, options = CASES[case]
    problem = make(**what)
    starts = 0.5 * np.random.default_rng(0).standard_normal((3, problem.size))
    batch = gf.simulate(problem, starts, FLOW, rtol=1e-6, **options)
    for together, start in zip(batch, starts, strict=True):
        alone = gf.simulate(problem, start, FLOW, rtol=1e-6, **options)
        assert together.status == alone.status
        assert np.array_equal(together.t, alone.t)
        assert np.array_equal(together.states, alone.states)
        assert [(event.name, event.t) for event in together.events] == [(e.name, e.t) for e in alone.events]
        for name, values in alone.records.items():
            assert np.array_equal(together.records[name], values)
            assert np.array_equal(together.records[name].t, values.t)


def test_a_batch_of_many_runs_leaves_its_lanes_for_what_they_cannot_do():
    what, options = CASES["events"]
    problem = make(**what)
    starts = 0.5 * np.random.default_rng(0).standard_normal((70, problem.size))
    batch = gf.simulate(problem, starts, FLOW, rtol=1e-4, **options)
    assert all([event.name for event in run.events] == ["early"] for run in batch)
    with pytest.raises(ValueError, match="look at every step"):
        gf.simulate(problem, starts, FLOW, rtol=1e-4, ensemble="lanes", **options)
