"""What made a result, as JSON: networks, losses and dynamics by name and arguments; versions and commit."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import numpy as np

from gradflow import dynamics, losses, networks, penalties
from gradflow.activations import Activation
from gradflow.clocks.kinds import CLOCKS
from gradflow.clocks.targets import At, Every
from gradflow.diagonal import Diagonal
from gradflow.modules import Convolutional


def known() -> dict[str, type]:
    """Classes that a file may name."""
    classes = [networks.DeepLinear, networks.FullyConnected, networks.ResidualLinear, Diagonal]
    classes += [networks.Skip, Activation, Convolutional]
    classes += [losses.Square, losses.Exponential, losses.Logistic, losses.CrossEntropy]
    classes += [dynamics.GradientFlow, dynamics.PolarFlow, dynamics.WeightNormFlow, dynamics.LMFlow]
    classes += [dynamics.SphereFlow, penalties.L1, penalties.L0, penalties.TransformedL1]
    classes += [dynamics.PowerRate, dynamics.GD, dynamics.SGD, dynamics.Momentum]
    classes += [*CLOCKS.values(), At, Every]
    return {cls.__name__: cls for cls in classes}


def to_config(value):
    """A value as JSON; objects that are not the library's own become {"custom": repr}."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [to_config(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_config(item) for key, item in value.items()}
    if type(value) in known().values():
        fields = [f for f in dataclasses.fields(value) if f.init]
        own = {_key(f.name): to_config(getattr(value, f.name)) for f in fields}
        return {"kind": type(value).__name__} | own
    return {"custom": repr(value)}


def from_config(config):
    """The value that `to_config` wrote; None for a custom object."""
    if isinstance(config, list):
        return [from_config(item) for item in config]
    if not isinstance(config, dict):
        return config
    if "custom" in config:
        return None
    if "kind" not in config:
        return {key: from_config(item) for key, item in config.items()}
    cls = known().get(config["kind"])
    if cls is None:
        raise ValueError(f"the file names {config['kind']!r}, which this version of gradflow does not know")
    return cls(**{_key(key): from_config(item) for key, item in config.items() if key != "kind"})


def _key(name: str) -> str:
    """A field's name in a file, and back; "kind" names the class there."""
    return {"kind": "kind of it", "kind of it": "kind"}.get(name, name)


def is_custom(config) -> bool:
    """Whether some part of a config cannot be rebuilt."""
    if isinstance(config, list):
        return any(is_custom(item) for item in config)
    return isinstance(config, dict) and ("custom" in config or any(is_custom(item) for item in config.values()))


def what_differs(one, other) -> str:
    """What sets another problem apart from one: its network, loss, data or decay; empty where nothing does."""
    if one is other:
        return ""
    for name in ("network", "loss"):
        here, there = getattr(one, name), getattr(other, name)
        if here is not there and to_config(here) != to_config(there):
            return f"its {name} is {there}, not {here}"
    if one.size != other.size:
        return f"it has {other.size} parameters, not {one.size}"
    if not (np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y)):
        return "its data are others"
    return "" if one.decay == other.decay else f"its decay is {other.decay:g}, not {one.decay:g}"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of gradflow and what computes for it, and the commit of its source where there is one."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("gradflow", "numpy", "scipy", "numba", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"commit": _commit()}


def _commit() -> str:
    import subprocess

    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
