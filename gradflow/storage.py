"""Files: a trajectory or a batch as netCDF, written whole or not at all, read without unpickling anything."""

from __future__ import annotations

import json
import math
import os
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gradflow.config import from_config, is_custom, to_config, what_differs
from gradflow.dynamics.flow import Flow
from gradflow.events import Crossing
from gradflow.status import Status
from gradflow.steppers.choose import Exact, FixedStep, Named
from gradflow.trajectory import Record, Run, Trajectory

CLOCKED_COLUMNS = ("log_elapsed", "log_between", "log_loss", "s", "s_counted")
FORMAT, BATCH_FORMAT = "gradflow trajectory 1", "gradflow batch 1"
SOLVERS = {cls.__name__: cls for cls in (Named, FixedStep, Exact)}


def save(trajectory: Trajectory, path) -> None:
    """Write a trajectory to a netCDF file, by way of a temporary file in the same folder."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it, such as run.nc")
    variables, texts = _contents(trajectory)
    _write(variables, {"format": FORMAT} | texts, path)


def save_batch(trajectories, path) -> None:
    """Write trajectories to a new netCDF file: what all have by one name is one variable, run after run."""
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already: give the name of a new file, or remove it first")
    problem, parts, texts = trajectories[0].problem, {}, []
    for run, trajectory in enumerate(trajectories):
        other = what_differs(problem, trajectory.problem)
        if other:
            raise ValueError(f"run {run} is of another problem than run 0: {other}; a file holds runs of one problem")
        variables, own = _contents(trajectory)
        arrays = {name: np.asarray(array) for name, (_, array) in variables.items() if name not in ("x", "y")}
        for name, array in arrays.items():
            parts.setdefault(_name_in_batch(name, array.dtype.name), []).append(array)
        kinds = {name: [array.dtype.name, *array.shape] for name, array in arrays.items()}
        texts.append(own | {"arrays": json.dumps(kinds)})
    together = {name: _together(name, arrays, len(texts)) for name, arrays in parts.items()}
    together |= {"x": (("n", "d"), problem.x), "y": (("n", "k"), problem.y)}
    for name in texts[0]:
        together[name] = ("run", np.array([own[name] for own in texts], dtype=object))
    _write(together, {"format": BATCH_FORMAT}, path)


def _name_in_batch(name: str, dtype: str) -> str:
    """Name of the variable that holds an array of a run: the same for all its snapshots, one for each type."""
    name = re.sub(r"^snapshot_\d+_", "snapshot_", name)
    return name if dtype == "float64" else f"{name} {dtype}"


def _together(name: str, arrays: list[np.ndarray], runs: int):
    """Arrays as one variable: stacked where their shapes agree, one after another in a row where they do not."""
    if len({array.shape for array in arrays}) > 1:
        return name + " values", np.concatenate([array.ravel() for array in arrays])
    first = "run" if len(arrays) == runs else name + " of"
    return (first, *(f"{name} {axis}" for axis in range(arrays[0].ndim))), np.stack(arrays)


def _write(variables: dict, attributes: dict, path: Path) -> None:
    """Write a netCDF file, by way of a temporary file in the same folder."""
    import xarray

    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: make it first, or save elsewhere")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        xarray.Dataset(variables, attrs=attributes).to_netcdf(temporary, engine="h5netcdf")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path, problem=None, dynamics=None) -> Trajectory:
    """Read a trajectory that `save` wrote."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give a file in it; gf.Batch.load reads the folder of a batch")
    arrays, attributes = _read(path)
    if attributes.get("format") == BATCH_FORMAT:
        raise ValueError(f"{path} holds a batch: read it by gf.Batch.load")
    if attributes.get("format") != FORMAT:
        raise ValueError(f"{path} is not a trajectory of this library (format {attributes.get('format')!r})")
    with _damage_told(path):
        return _trajectory(arrays, attributes, problem, dynamics, path)


@contextmanager
def _damage_told(path):
    """What a file lacks, as an error that names it."""
    try:
        yield
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} was changed, or not written whole: {type(error).__name__} {error}") from error


def load_batch(path, problem=None, dynamics=None) -> list[Trajectory]:
    """Read the trajectories that `save_batch` wrote, or a folder of files of earlier versions; they share a problem."""
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("run-*.nc"))
        if not files:
            raise FileNotFoundError(f"{path} is not a folder with the files of a batch")
        first = load(files[0], problem, dynamics)
        return [first, *(load(file, first.problem, dynamics) for file in files[1:])]
    stored, attributes = _read(path)
    if attributes.get("format") == FORMAT:
        raise ValueError(f"{path} holds one trajectory: read it by gf.Trajectory.load")
    if attributes.get("format") != BATCH_FORMAT:
        raise ValueError(f"{path} is not a batch of this library (format {attributes.get('format')!r})")
    with _damage_told(path):
        return _runs(stored, problem, dynamics, path)


def _runs(stored: dict, problem, dynamics, path) -> list[Trajectory]:
    """Trajectories of what a file holds of a batch."""
    values = {name: array.ravel() for name, array in stored.items()}
    begin, runs = dict.fromkeys(values, 0), []
    for run, kinds in enumerate(stored["arrays"]):
        arrays = {"x": stored["x"], "y": stored["y"]}
        for name, (dtype, *shape) in json.loads(kinds).items():
            kept, size = _name_in_batch(name, dtype), math.prod(shape)
            arrays[name] = values[kept][begin[kept] : begin[kept] + size].reshape(shape).copy()
            begin[kept] += size
        texts = {name: stored[name][run] for name in ("config", "run")}
        runs.append(_trajectory(arrays, texts, problem, dynamics, path))
        problem = runs[0].problem
    return runs


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays by name and attributes of a netCDF file."""
    import xarray

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with xarray.open_dataset(path, engine="h5netcdf", decode_times=False) as stored:
            data = stored.load()
    except Exception as error:
        raise ValueError(f"{path} is not a readable netCDF file: it was cut short, or is not one ({error})") from error
    return {str(name): variable.values for name, variable in data.variables.items()}, data.attrs


def _trajectory(data: dict, texts: dict, problem, dynamics, path) -> Trajectory:
    """Trajectory of what a file holds of a run."""
    config, said = json.loads(texts["config"]), json.loads(texts["run"])
    problem = _problem(data, config, path) if problem is None else _checked_problem(problem, data, config, path)
    dynamics = _dynamics(config, path) if dynamics is None else dynamics
    if not isinstance(dynamics, Flow):
        raise TypeError(f"dynamics = {dynamics!r}: must be a dynamics such as gf.GradientFlow()")
    records = {name: Record(data[f"record_t_{i}"], data[f"record_{i}"]) for i, name in enumerate(said["records"])}
    columns = (data[f"event_{name}"] for name in ("t", "theta", "log10_t"))
    events = [
        Crossing(name, float(t), theta, float(log10_t))
        for name, t, theta, log10_t in zip(said["events"], *columns, strict=True)
    ]
    return Trajectory(
        problem,
        dynamics,
        data["t"],
        data["states"],
        Status[said["status"]],
        said["counts"],
        events=events,
        records=records,
        notes=said["notes"],
        run=Run(dynamics, _arguments(said["arguments"]), _snapshots(data, said["snapshots"])),
        config=config,
        clocked=_clocked(data, said.get("clocked")),
    )


def to_dataset(trajectory: Trajectory):
    """The trajectory as an xarray Dataset for analysis: loss, layers by name, records, drift."""
    import xarray

    data = xarray.Dataset(coords={"t": ("t", trajectory.t, {"long_name": "time"})})
    data["loss"] = ("t", trajectory.loss, {"long_name": "objective"})
    if trajectory.clocked is not None:
        for name in ("log10_t", "log10_loss", "s"):
            data[name] = ("t", getattr(trajectory, name))
    for name, values in trajectory.problem.layers(trajectory.theta).items():
        data[name] = (("t", *(f"{name}_{axis}" for axis in range(values.ndim - 1))), values)
    for name, values in trajectory.records.items():
        time = "t" if np.array_equal(values.t, trajectory.t) else f"t_{name}"
        if time != "t":
            data = data.assign_coords({time: (time, values.t)})
        data[f"{name}_record" if name in data else name] = (
            (time, *(f"{name}_{axis}" for axis in range(values.ndim - 1))),
            np.asarray(values),
        )
    for name, values in trajectory.drift.items():
        data[f"drift {name}"] = ("t", values)
    data.attrs = {"status": str(trajectory.status), "config": json.dumps(trajectory.config)}
    return data


def _contents(trajectory: Trajectory) -> tuple[dict[str, tuple], dict[str, str]]:
    """Everything that `load` needs, exactly: arrays by name with their dimensions, and texts."""
    run = trajectory.run or Run(trajectory.dynamics, {}, [])
    data: dict[str, tuple[Any, Any]] = {"t": ("t", trajectory.t), "states": (("t", "s"), trajectory.states)}
    data["loss"] = ("t", trajectory.loss)
    data["x"], data["y"] = (("n", "d"), trajectory.problem.x), (("n", "k"), trajectory.problem.y)
    data["event_t"] = ("event", np.array([event.t for event in trajectory.events], dtype=float))
    data["event_log10_t"] = ("event", np.array([event.log10_t for event in trajectory.events], dtype=float))
    thetas = [event.theta for event in trajectory.events]
    data["event_theta"] = (("event", "p"), np.array(thetas, dtype=float).reshape(len(thetas), trajectory.problem.size))
    own = set(trajectory.dynamics.records(trajectory.problem, trajectory.states[:1]))
    names = [name for name in trajectory.records if name not in own]
    for i, name in enumerate(names):
        values = trajectory.records[name]
        data[f"record_t_{i}"] = (f"r{i}", values.t)
        data[f"record_{i}"] = ((f"r{i}", *(f"r{i}_{axis}" for axis in range(values.ndim - 1))), np.asarray(values))
    if trajectory.clocked is not None:
        for name in CLOCKED_COLUMNS:
            data[f"clocked_{name}"] = ("t", getattr(trajectory.clocked, name))
    numbers = []
    for i, snapshot in enumerate(run.snapshots):
        numbers.append({})
        for name, value in snapshot.items():
            if isinstance(value, np.ndarray) and value.dtype.names is None:
                data[f"snapshot_{i}_{name}"] = (tuple(f"s{i}_{name}_{axis}" for axis in range(value.ndim)), value)
            else:
                numbers[-1][name] = value.item() if isinstance(value, np.generic) else value
    arguments = {key: value for key, value in run.arguments.items() if key not in ("events", "record", "solver")}
    if arguments:
        solver = run.arguments["solver"]
        arguments["solver"] = {"kind": type(solver).__name__} | dict(vars(solver))
    said = {
        "status": trajectory.status.name,
        "counts": trajectory.counts,
        "notes": trajectory.notes,
        "records": names,
        "events": [event.name for event in trajectory.events],
        "snapshots": numbers,
        "arguments": to_config(arguments),
        "clocked": _clocked_texts(trajectory.clocked),
    }
    return data, {"config": json.dumps(trajectory.config), "run": json.dumps(said)}


def _problem(data, config, path):
    from gradflow.problem import Problem

    if is_custom(config["network"]) or is_custom(config["loss"]):
        raise ValueError(
            f"{path} holds a network of the user's own ({config['network'].get('custom', 'unknown')}):"
            " give it, Trajectory.load(path, problem=...)"
        )
    loss = from_config(config["loss"])
    return Problem(from_config(config["network"]), loss, data["x"], data["y"], decay=config["decay"])


def _checked_problem(problem, data, config, path):
    """The problem that was given, if it is the one of the file as far as that can tell."""
    if not hasattr(problem, "checked"):
        raise TypeError(f"problem = {problem!r}: must be a gf.Problem(network, loss, x, y)")
    for name in ("network", "loss"):
        own = getattr(problem, name)
        if not is_custom(config[name]) and to_config(own) != config[name]:
            raise ValueError(f"problem: its {name} is {own}, and that of {path} another; leave problem out")
    if not (np.array_equal(problem.x, data["x"]) and np.array_equal(problem.y, data["y"])):
        raise ValueError(f"problem: its data are not those of {path}; give the problem that was run")
    return problem


def _dynamics(config, path):
    if is_custom(config["dynamics"]):
        raise ValueError(
            f"{path} was run with a dynamics of the user's own: give it, Trajectory.load(path, dynamics=...)"
        )
    return from_config(config["dynamics"])


def _arguments(stored: dict) -> dict:
    """Arguments of the run: what a file cannot hold (stops, records) is left out."""
    if not stored:
        return {}
    solver = dict(stored.pop("solver"))
    arguments = stored | {"solver": SOLVERS[solver.pop("kind")](**solver), "events": [], "record": {}}
    for name in ("clock", "t_end"):
        arguments[name] = from_config(arguments.get(name, "auto"))
    if isinstance(arguments["save_at"], dict):
        arguments["save_at"] = from_config(arguments["save_at"])
    if "theta0" in arguments:
        arguments["theta0"] = np.array(arguments["theta0"])
    if isinstance(arguments["atol"], list):
        arguments["atol"] = np.array(arguments["atol"])
    if isinstance(arguments["save_at"], list):
        arguments["save_at"] = 200
    return arguments


def _clocked(data, texts):
    """What a run in a clock knows in logs, or None."""
    if texts is None:
        return None
    from gradflow.clocks.kept import Record as Clocked

    return Clocked(**{name: data[f"clocked_{name}"] for name in CLOCKED_COLUMNS}, **texts)


def _clocked_texts(clocked):
    if clocked is None:
        return None
    return {"clocks": clocked.clocks, "switches": clocked.switches, "t_start": clocked.t_start}


def _snapshots(data, numbers: list[dict]) -> list[dict]:
    """Snapshots put together from their numbers and arrays."""
    snapshots = []
    for i, scalars in enumerate(numbers):
        prefix = f"snapshot_{i}_"
        arrays = {name.removeprefix(prefix): array for name, array in data.items() if name.startswith(prefix)}
        snapshots.append({**scalars, **arrays})
    return snapshots
