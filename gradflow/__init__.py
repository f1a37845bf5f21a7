"""gradflow: the training dynamics of small neural networks, computed like orbits."""

from importlib import import_module
from typing import TYPE_CHECKING

from gradflow import clocks, data, exact, losses, measure, penalties, population
from gradflow.activations import Activation
from gradflow.batch import Batch
from gradflow.branching import branches
from gradflow.clocks.targets import at, every
from gradflow.compare import Comparison, compare
from gradflow.diagonal import Diagonal
from gradflow.dynamics import (
    GD,
    SGD,
    Flow,
    GradientFlow,
    LMFlow,
    Momentum,
    PolarFlow,
    PowerRate,
    SphereFlow,
    WeightNormFlow,
    relaxed_splitting,
)
from gradflow.events import Event, ExcessLossBelow, GradientBelow, LossBelow, Stationary
from gradflow.modules import Convolutional, FromModule
from gradflow.networks import DeepLinear, FullyConnected, ResidualLinear, Skip
from gradflow.problem import Problem
from gradflow.simulate import simulate
from gradflow.status import Status
from gradflow.steppers.choose import FixedStep
from gradflow.sweep import sweep
from gradflow.threads import get_threads, set_threads
from gradflow.trajectory import Trajectory

if TYPE_CHECKING:
    from gradflow import papers, plots
    from gradflow.papers import Claim, Paper, reproduce

__version__ = "0.1.0"

__all__ = [
    "GD",
    "SGD",
    "Activation",
    "Batch",
    "Claim",
    "Comparison",
    "Convolutional",
    "DeepLinear",
    "Diagonal",
    "Event",
    "ExcessLossBelow",
    "FixedStep",
    "Flow",
    "FromModule",
    "FullyConnected",
    "GradientBelow",
    "GradientFlow",
    "LMFlow",
    "LossBelow",
    "Momentum",
    "Paper",
    "PolarFlow",
    "PowerRate",
    "Problem",
    "ResidualLinear",
    "Skip",
    "SphereFlow",
    "Stationary",
    "Status",
    "Trajectory",
    "WeightNormFlow",
    "at",
    "clocks",
    "branches",
    "compare",
    "data",
    "every",
    "exact",
    "get_threads",
    "losses",
    "measure",
    "papers",
    "penalties",
    "plots",
    "population",
    "relaxed_splitting",
    "reproduce",
    "set_threads",
    "simulate",
    "sweep",
]


def __getattr__(name):
    """Load what needs matplotlib when it is first asked for."""
    if name in ("papers", "plots"):
        return import_module(f"gradflow.{name}")
    if name in ("Claim", "Paper", "reproduce"):
        return getattr(import_module("gradflow.papers"), name)
    raise AttributeError(f"module 'gradflow' has no attribute {name!r}")
