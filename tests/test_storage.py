"""Files: exact round trips, crashes while writing, files that are not ours."""

import cases
import numpy as np
import pytest

import gradflow as gf


def a_run(dynamics=None, solver="auto", **options):
    problem = cases.make("deep linear", "square", decay=options.pop("decay", 0.0))
    options = {"t_end": 1.5, "save_at": 21} | options
    return gf.simulate(problem, cases.start(problem), dynamics or gf.GradientFlow(), solver=solver, **options)


@pytest.mark.parametrize(
    "dynamics",
    [
        gf.GradientFlow(rates={"W1": 0.5}),
        gf.PolarFlow("neuron", 2.0, gf.PowerRate(1.0, -1.0)),
        gf.LMFlow(decay=0.1),
        gf.WeightNormFlow("layer", scale_rate=(0.0, 1.0, 1.0)),
        gf.GD(0.05, flow=gf.LMFlow()),
        gf.SGD(0.05, batch_size=2, seed=3),
        gf.Momentum(0.05, nesterov=True),
    ],
)
def test_round_trip_is_exact(tmp_path, dynamics):
    run = a_run(dynamics, record={"norm": gf.measure.gradient_norm}, events=gf.Event("t", lambda p, t, th: t - 0.3))
    run.save(tmp_path / "run.nc")
    back = gf.Trajectory.load(tmp_path / "run.nc")
    for name in ("t", "theta", "states", "loss", "end"):
        assert np.array_equal(getattr(back, name), getattr(run, name))
    assert back.status == run.status
    assert back.counts == run.counts
    assert back.config == run.config
    assert back.dynamics == run.dynamics
    assert back.problem.network == run.problem.network
    assert np.array_equal(back.records["norm"], run.records["norm"])
    assert [(e.name, e.t, e.theta.tolist()) for e in back.events] == [
        (e.name, e.t, e.theta.tolist()) for e in run.events
    ]
    assert np.array_equal(back.extend(2.0).end, run.extend(2.0).end)
    assert np.array_equal(back.at(0.7), run.at(0.7))


@pytest.mark.parametrize("solver", ["dop853", "stiff", "LSODA", gf.FixedStep("rk4", 0.01)])
def test_stored_runs_go_on_with_their_solver(tmp_path, solver):
    run = a_run(solver=solver)
    run.save(tmp_path / "run.nc")
    back = gf.Trajectory.load(tmp_path / "run.nc")
    assert np.abs(back.extend(3.0).end - run.extend(3.0).end).max() < 1e-12
    assert str(back.config["solver"]) == str(solver)


def test_the_config_names_the_call_and_the_versions(tmp_path):
    config = a_run(decay=0.2).config
    assert config["network"] == {"kind": "DeepLinear", "widths": [3, 4, 2, 1], "skips": []}
    assert config["decay"] == 0.2
    assert config["rtol"] == 1e-8
    assert {"gradflow", "numpy", "scipy", "commit"} <= config["versions"].keys()


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    first = a_run()
    first.save(path)
    import xarray

    def half_written(self, target, **options):
        with open(target, "wb") as file:
            file.write(b"\x89HDF half of a file")
        raise OSError("disk full")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", half_written)
    with pytest.raises(OSError, match="disk full"):
        a_run(t_end=1.0).save(path)
    monkeypatch.undo()
    assert np.array_equal(gf.Trajectory.load(path).theta, first.theta)
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]


def test_files_that_are_not_ours_or_cut_short_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        gf.Trajectory.load(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("not netCDF")
    with pytest.raises(ValueError, match="cut short, or is not one"):
        gf.Trajectory.load(tmp_path / "text.nc")
    a_run().save(tmp_path / "run.nc")
    whole = (tmp_path / "run.nc").read_bytes()
    (tmp_path / "short.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short, or is not one"):
        gf.Trajectory.load(tmp_path / "short.nc")
    import xarray

    xarray.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="not a trajectory of this library"):
        gf.Trajectory.load(tmp_path / "foreign.nc")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        a_run().save(tmp_path / "missing" / "run.nc")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.drop_vars("states"), "KeyError 'states'"),
        (lambda data: data.assign_attrs(config="{"), "JSONDecodeError"),
        (lambda data: data.assign_attrs(run="{}"), "KeyError 'records'"),
    ],
)
def test_files_that_were_changed_are_refused(tmp_path, change, said):
    import xarray

    a_run().save(tmp_path / "run.nc")
    with xarray.open_dataset(tmp_path / "run.nc", engine="h5netcdf", decode_times=False) as data:
        change(data.load()).to_netcdf(tmp_path / "changed.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=f"was changed, or not written whole: {said}"):
        gf.Trajectory.load(tmp_path / "changed.nc")


def test_what_a_file_is_given_must_fit_it(tmp_path):
    run = a_run()
    run.save(tmp_path / "run.nc")
    assert gf.Trajectory.load(tmp_path / "run.nc", problem=run.problem).problem is run.problem
    with pytest.raises(TypeError, match="problem = 3: must be a gf.Problem"):
        gf.Trajectory.load(tmp_path / "run.nc", problem=3)
    with pytest.raises(TypeError, match="dynamics = 3: must be a dynamics"):
        gf.Trajectory.load(tmp_path / "run.nc", dynamics=3)
    with pytest.raises(ValueError, match="problem: its network is fully connected"):
        gf.Trajectory.load(tmp_path / "run.nc", problem=cases.make("tanh", "square"))
    with pytest.raises(ValueError, match="problem: its data are not those of"):
        gf.Trajectory.load(tmp_path / "run.nc", problem=cases.make("deep linear", "square", seed=1))
    with pytest.raises(TypeError, match="trajectories of type Trajectory: give a list of runs"):
        gf.Batch(run)


def batch_of(runs, **options):
    problem = cases.make("deep linear", "square")
    starts = np.stack([cases.start(problem, seed) for seed in range(runs)])
    return gf.simulate(problem, starts, gf.GradientFlow(), **({"t_end": 1.5, "save_at": 21} | options))


RAGGED = {
    "steps": {"save_at": "steps", "rtol": 1e-6},
    "stops": {"stop": gf.LossBelow(0.5), "events": gf.Event("t", lambda p, t, th: t - 0.3)},
    "records": {"record": {"norm": gf.measure.gradient_norm, "few": (gf.measure.singular_values, 3)}},
    "clock": {"t_end": None, "stop": gf.LossBelow(1e-3), "clock": "log_loss"},
    "lanes": {"ensemble": "lanes"},
}


@pytest.mark.parametrize("options", RAGGED.values(), ids=RAGGED)
def test_the_runs_of_a_batch_come_back_exactly(tmp_path, options):
    batch = batch_of(5, **options)
    batch.save(tmp_path / "batch.nc")
    back = gf.Batch.load(tmp_path / "batch.nc")
    assert len(back) == 5
    assert all(run.problem is back.problem for run in back)
    for one, other in zip(batch, back, strict=True):
        for name in ("t", "states", "loss", "log10_t"):
            assert np.array_equal(getattr(other, name), getattr(one, name))
        for name in ("status", "counts", "notes", "config", "dynamics"):
            assert getattr(other, name) == getattr(one, name)
        assert [(e.name, e.t) for e in other.events] == [(e.name, e.t) for e in one.events]
        for name, record in one.records.items():
            assert np.array_equal(other.records[name], record)
            assert np.array_equal(other.records[name].t, record.t)
        assert [s.keys() for s in other.run.snapshots] == [s.keys() for s in one.run.snapshots]
        assert np.array_equal(other.at(0.2), one.at(0.2))
    if "clock" not in options:
        assert back.extend(2.0).end.tobytes() == batch.extend(2.0).end.tobytes()


def test_a_batch_has_as_many_variables_as_a_run(tmp_path):
    import xarray

    counted = []
    for runs in (2, 9):
        batch_of(runs, save_at="steps").save(tmp_path / f"{runs}.nc")
        with xarray.open_dataset(tmp_path / f"{runs}.nc", engine="h5netcdf", decode_times=False) as stored:
            counted.append(len(stored.variables))
    assert counted[0] == counted[1] < 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.nc", "9.nc"]


def test_a_folder_of_runs_is_read_as_a_batch(tmp_path):
    batch = batch_of(3)
    for number, run in enumerate(batch):
        run.save(tmp_path / f"run-{number}.nc")
    assert gf.Batch.load(tmp_path).theta.tobytes() == batch.theta.tobytes()


def test_files_of_batches_and_runs_are_told_apart(tmp_path):
    batch_of(2).save(tmp_path / "batch.nc")
    a_run().save(tmp_path / "run.nc")
    with pytest.raises(ValueError, match=r"holds a batch: read it by gf\.Batch\.load"):
        gf.Trajectory.load(tmp_path / "batch.nc")
    with pytest.raises(ValueError, match=r"holds one trajectory: read it by gf\.Trajectory\.load"):
        gf.Batch.load(tmp_path / "run.nc")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        gf.Batch.load(tmp_path / "none.nc")
    other = gf.simulate(cases.make("tanh", "square"), np.ones(26), gf.GradientFlow(), t_end=1.0)
    with pytest.raises(ValueError, match="run 2 is of another problem than run 0: its network is"):
        gf.Batch([*batch_of(2), other]).save(tmp_path / "mixed.nc")
    assert not (tmp_path / "mixed.nc").exists()


def test_networks_and_dynamics_of_ones_own_must_be_given_again(tmp_path):
    import torch

    torch.manual_seed(0)
    network = gf.FromModule(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)), (3,))
    problem = cases.make(network, "square")
    run = gf.simulate(problem, network.start(), gf.GradientFlow(), t_end=0.5, save_at=3)
    run.save(tmp_path / "module.nc")
    with pytest.raises(ValueError, match="problem="):
        gf.Trajectory.load(tmp_path / "module.nc")
    back = gf.Trajectory.load(tmp_path / "module.nc", problem=problem)
    assert np.array_equal(back.theta, run.theta)
    polar = a_run(gf.PolarFlow(angular_rate=lambda r: 1.0))
    polar.save(tmp_path / "polar.nc")
    with pytest.raises(ValueError, match="dynamics="):
        gf.Trajectory.load(tmp_path / "polar.nc")
    assert np.array_equal(gf.Trajectory.load(tmp_path / "polar.nc", dynamics=polar.dynamics).theta, polar.theta)


def test_to_xarray_has_layers_records_and_drift():
    run = a_run(gf.LMFlow(), record={"margin": (gf.measure.loss, 5)})
    data = run.to_xarray()
    assert data["W1"].dims == ("t", "W1_0", "W1_1")
    assert np.array_equal(data["W3"].values[:, 0], run.problem.layers(run.theta)["W3"][:, 0])
    assert np.array_equal(data["rho"].values, run.records["rho"])
    assert data["margin"].sizes == {"t_margin": 5}
    assert "drift |V| = 1" in data
    assert "gradflow" in data.attrs["config"]
