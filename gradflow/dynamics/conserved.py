"""What each flow conserves, as functions of its state."""

from __future__ import annotations

import numpy as np

from gradflow.diagonal import Diagonal
from gradflow.dynamics.flow import Invariant
from gradflow.dynamics.groups import layout, norms
from gradflow.invariants import invariant_decay, invariant_names, invariants


def plain(problem, rates) -> dict[str, Invariant]:
    """Invariants of the plain flow, with time constants by layer; none where they differ within a layer."""
    if rates is not None and not isinstance(rates, dict):
        return {}
    names, decay = invariant_names(problem, rates), invariant_decay(problem, rates)
    return {
        name: Invariant(
            formula,
            lambda state, name=name: invariants(problem, state, rates)[name],
            decay[name],
            relative=isinstance(problem.network, Diagonal),
        )
        for name, formula in names.items()
    }


def polar(problem, flow) -> dict[str, Invariant]:
    """Unit directions; kernel invariants of a diagonal network; balancedness where the rates give the plain flow."""
    order, starts = layout(problem.network, flow.groups)
    groups = starts.size - 1

    def direction(state):
        return np.exp(state[groups:]) if flow.log_directions else state[groups:]

    found = {"|u| = 1": Invariant("|u_g|", lambda state: norms(direction(state), starts))}
    if flow.is_plain and flow.groups != "whole":
        same = plain(problem, None)
        found |= {
            name: Invariant(
                i.formula, lambda state, i=i: i.value(flow.unpack(problem, state)), i.decay_rate, i.relative
            )
            for name, i in same.items()
        }
    elif isinstance(problem.network, Diagonal) and flow.compiled and problem.decay == 0 and flow.log_directions:
        found["kernel"] = _diagonal_kernel(problem, flow)
    return found


def _diagonal_kernel(problem, flow) -> Invariant:
    r"""Kernel part of log u + Psi(r), or of u^(2-D) exp(-(D-2) Psi(r)), with Psi = int r eta_u/eta_r dr.

    Chou, Rauhut, Ward, arXiv 2305.05448, in the form for any ratio of the rates. The integral is taken from the
    radius 1, which only adds a constant for D = 2 and a factor for D > 2.
    """
    power, (basis, psi) = 2 - problem.network.depth, log_kernel(problem, flow)
    if power == 0:
        return Invariant("K^T (log u + Psi(r))", lambda state: basis.T @ (state[1:] + psi(state[0])))
    return Invariant(
        f"K^T u^{power} exp({power} Psi(r))",
        lambda state: basis.T @ np.exp(power * (state[1:] + psi(state[0]))),
        relative=True,
    )


def log_kernel(problem, flow):
    """K (2d or d, m) and Psi(r)."""
    signed = problem.network.signed
    x = np.hstack([problem.x, -problem.x]) if signed else problem.x
    _, strengths, right = np.linalg.svd(x)
    basis = right[int((strengths > max(x.shape) * np.finfo(float).eps * strengths[0]).sum()) :].T
    ratio = flow.angular_rate.coefficient / flow.radial_rate.coefficient
    exponent = 2.0 + flow.angular_rate.power - flow.radial_rate.power

    def psi(r):
        return ratio * (np.log(r) if exponent == 0 else r**exponent / exponent)

    return basis, psi


def weight_norm(problem, flow) -> dict[str, Invariant]:
    """The norms |v_g|."""
    starts = layout(problem.network, flow.groups)[1]
    return {"|v|": Invariant("|v_g|", lambda state: norms(state[starts.size - 1 :], starts), relative=True)}


def normalised(problem, flow) -> dict[str, Invariant]:
    """Unit layers."""
    from gradflow.dynamics.normalized import lm_layout

    starts = lm_layout(problem.network)[1]
    return {"|V| = 1": Invariant("|V_k|_F", lambda state: norms(state[1:], starts))}
