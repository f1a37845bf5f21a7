"""Checks of the arguments of simulate, and what follows from them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradflow.arguments import finite, number, positive
from gradflow.clocks.targets import At
from gradflow.dynamics.flow import Flow, GradientFlow, typical
from gradflow.dynamics.normalized import LMFlow
from gradflow.dynamics.polar import PolarFlow
from gradflow.dynamics.weight_norm import WeightNormFlow
from gradflow.modules import Convolutional
from gradflow.networks import FullyConnected
from gradflow.steppers.choose import FixedStep

MOST_GRADIENTS = 10_000_000
MOST_GRADIENTS_AT_KINKS = 200_000
FOLLOWED = (GradientFlow, PolarFlow, WeightNormFlow, LMFlow)
KINKS = ("follow", "ignore", "implicit")
AT_BRANCH = ("likely", "active", "inactive", "stay", "stop")
LEAST_RTOL = 1e-14
"""Below it rounding rules: measured errors stay at 1e-15 while the gradients grow."""


def sequence_of(value, name) -> list:
    """Stops or events as a list."""
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for item in items:
        if not hasattr(item, "measure") or isinstance(item, type):
            raise TypeError(
                f"{name} = {item!r}: must be a stop or an event, such as gf.LossBelow(1e-6) or gf.Event(...)"
            )
    return items


def checked_end(t_end, t_start, step: float = 0.0) -> Any:
    """End of a run: a number at least one `step` of a discrete rule away, a place in another variable, or infinity."""
    finite(t_start, "t_start")
    if t_end is None:
        return math.inf
    if isinstance(t_end, At):
        return t_end
    end = number(t_end, "t_end")
    if not (math.isfinite(end) and end > t_start):
        raise ValueError(f"t_end = {t_end}: must be finite and later than t_start = {t_start:g}")
    if end - t_start < step * (1.0 - 1e-9):
        raise ValueError(
            f"t_end = {t_end}: not one step of {step:g} ends by then from t_start = {t_start:g}; give a shorter step or"
            " a later t_end"
        )
    return end


def checked_rtol(rtol) -> float:
    """Relative tolerance as a number below 1."""
    given = positive(rtol, "rtol")
    if given >= 1.0:
        raise ValueError(f"rtol = {rtol}: must be below 1, where a step may be as wrong as the state is large")
    return given


def notes_of(arguments) -> list[str]:
    """What the reader of a result should know about its call."""
    notes = [arguments["kink_note"]] if arguments["kink_note"] else []
    if arguments["rtol"] < LEAST_RTOL:
        notes.append(
            f"rtol = {arguments['rtol']:g}: rounding rules below {LEAST_RTOL:g}; a smaller rtol costs gradients and"
            " gains no digits"
        )
    return notes


def checked_atol(atol):
    """Absolute tolerance as a number, an array, or None for the default."""
    if atol is None:
        return None
    try:
        values = np.asarray(atol, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"atol = {atol!r}: must be a number, or one for each entry of the state") from None
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"atol = {atol}: must be finite and not negative")
    return float(values) if values.ndim == 0 else values


def absolute_tolerance(problem, dynamics, state, arguments):
    """Absolute tolerance as given, or rtol/100 times the scale of the start; one number where all entries agree."""
    if arguments["atol"] is not None or dynamics.discrete:
        return arguments["atol"]
    if type(dynamics).scale is Flow.scale:
        return 1e-2 * arguments["rtol"] * typical(state)
    atol = 1e-2 * arguments["rtol"] * dynamics.scale(problem, np.asarray(state))
    return float(atol[0]) if (atol == atol[0]).all() else atol


def checked_branch(at_branch) -> str:
    """Choice at a branch point, if it is a known one."""
    if at_branch not in AT_BRANCH:
        raise ValueError(f"at_branch = {at_branch!r}: choose one of {', '.join(AT_BRANCH)}")
    return at_branch


def treatment_of_kinks(problem, dynamics, solver, kinks) -> tuple[str, str]:
    """How the kinks of a run are treated, "none" where there are none, and what its reader should know."""
    if kinks not in KINKS:
        raise ValueError(f"kinks = {kinks!r}: choose one of {', '.join(KINKS)}")
    if not problem.network.kinked or dynamics.discrete:
        return "none", ""
    plain = type(dynamics) is GradientFlow and dynamics.rates is None
    network = problem.network
    layered = isinstance(network, FullyConnected) and not network.skips
    if kinks == "implicit":
        if not (plain and layered and isinstance(solver, FixedStep) and solver.method == "euler"):
            raise ValueError(
                "kinks = 'implicit' needs the plain flow of a fully connected network without skips, and"
                " solver=gf.FixedStep('euler', step=...)"
            )
        return "implicit", ""
    if kinks == "ignore":
        return "ignore", ""
    if not isinstance(network, FullyConnected | Convolutional) or type(dynamics) not in FOLLOWED:
        known = ", ".join(flow.__name__ for flow in FOLLOWED)
        return "ignore", (
            f"kinks are not followed for {dynamics!r} on {network}, but for {known} on fully connected and"
            " convolutional networks: the plain stepper is used"
        )
    if str(solver) not in ("auto", "dop853", "rk45"):
        return "ignore", f"kinks are not followed by the solver {solver}: give 'auto', 'rk45' or 'dop853'"
    return "follow", ""


def refuse_to_conserve(arguments) -> None:
    """Raise if a run in a clock is to be put back on what it conserves."""
    if arguments.get("conserve"):
        raise ValueError(
            "conserve = True: a run in a clock is not put back on what it conserves; give t_end in time and"
            " clock='time', or leave conserve out (run.drift says how far it is)"
        )


def most_gradients(arguments, given) -> int:
    """The cap: lower for flows that may chatter on kinks."""
    if given is not None:
        return int(positive(given, "max_gradients"))
    return MOST_GRADIENTS_AT_KINKS if arguments["kinks"] == "ignore" else MOST_GRADIENTS


def warn_of_many_kinks(problem) -> None:
    """Say before a long run through kinks what to expect."""
    from gradflow.kinks.estimate import MANY, expected_events

    expected = expected_events(problem)
    if expected > MANY:
        warnings.warn(
            f"about {expected:.0e} kink events are expected, at ten gradients each; gf.GD with small steps,"
            " kinks='implicit' or a smooth activation are the alternatives",
            stacklevel=4,
        )
