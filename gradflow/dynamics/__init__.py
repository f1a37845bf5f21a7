"""How theta moves: flows and discrete rules."""

from gradflow.dynamics.discrete import GD, SGD, Momentum
from gradflow.dynamics.flow import Flow, GradientFlow, Invariant
from gradflow.dynamics.normalized import LMFlow
from gradflow.dynamics.polar import PolarFlow, PowerRate
from gradflow.dynamics.sphere import SphereFlow
from gradflow.dynamics.splitting import SplittingRun, relaxed_splitting
from gradflow.dynamics.weight_norm import WeightNormFlow

__all__ = [
    "GD",
    "SGD",
    "Flow",
    "GradientFlow",
    "Invariant",
    "LMFlow",
    "Momentum",
    "PolarFlow",
    "PowerRate",
    "SphereFlow",
    "SplittingRun",
    "WeightNormFlow",
    "relaxed_splitting",
]
