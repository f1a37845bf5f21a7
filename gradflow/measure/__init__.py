"""What is looked at: plain functions of (problem, theta), for theta (P,) or a batch (runs, P)."""

from gradflow.invariants import balancedness, imbalance, invariant_decay, invariant_names, invariants
from gradflow.measure.alignment import alignment
from gradflow.measure.along import drift, step_lengths, time_integral
from gradflow.measure.collapse import collapse, features, nc1, nc2, nc3, nc4
from gradflow.measure.curvature import (
    hessian_eigenpairs,
    hessian_spectrum,
    hessian_trace,
    sharpness,
    smallest_eigenvalue,
    smallest_eigenvalue_bound,
)
from gradflow.measure.dissipation import dissipation
from gradflow.measure.forgetting import forgetting, unseen_decay
from gradflow.measure.layers import effective_map, layer_norms, rho, unseen
from gradflow.measure.margin import accuracy, margin, margins, normalised_margin
from gradflow.measure.objective import gradient_error, gradient_norm, loss
from gradflow.measure.rank import (
    layer_singular_values,
    numerical_rank,
    rank_tail,
    singular_values,
    spectral_ratio,
    stable_rank,
)
from gradflow.measure.rank_bounds import (
    gram_differences,
    rank_gap,
    rank_gap_bound,
    rank_one_excess,
    spectral_ratio_bound,
)
from gradflow.measure.samples import gradient_noise, gradient_noise_floor, sample_gradients
from gradflow.measure.tangent_kernel import gauss_newton_sharpness, jacobian, ntk

__all__ = [
    "accuracy",
    "alignment",
    "balancedness",
    "collapse",
    "dissipation",
    "drift",
    "effective_map",
    "features",
    "forgetting",
    "gauss_newton_sharpness",
    "gradient_error",
    "gradient_noise",
    "gradient_noise_floor",
    "gradient_norm",
    "gram_differences",
    "hessian_eigenpairs",
    "hessian_spectrum",
    "hessian_trace",
    "imbalance",
    "invariant_decay",
    "invariant_names",
    "invariants",
    "jacobian",
    "layer_norms",
    "layer_singular_values",
    "loss",
    "margin",
    "margins",
    "normalised_margin",
    "ntk",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "numerical_rank",
    "rank_gap",
    "rank_gap_bound",
    "rank_one_excess",
    "rank_tail",
    "rho",
    "sample_gradients",
    "sharpness",
    "singular_values",
    "smallest_eigenvalue",
    "smallest_eigenvalue_bound",
    "spectral_ratio",
    "spectral_ratio_bound",
    "stable_rank",
    "step_lengths",
    "time_integral",
    "unseen",
    "unseen_decay",
]
