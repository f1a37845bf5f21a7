"""Closed-form solutions of gradient flows: oracles for tests, reference lines for figures.

All forms are of the plain flow theta' = -grad L(theta) under the loss that their docstring states. Square losses
carry the factor 1/2 and whitened inputs, as `Square(half=True)`; without the 1/2 the same curve runs twice as fast.

No closed form is needed for what the plain flow conserves, whatever the loss of the output:

- deep linear networks: every matrix W_{l+1}^T W_{l+1} - W_l W_l^T, hence a_i^2 - a_j^2 along a chain of scalars;
- ReLU and other positively homogeneous layers: per hidden neuron |w_in|^2 - |w_out|^2, a bias counted in w_in;
- diagonal networks w = u o u - v o v: every product u_i v_i;
- layers such as tanh conserve nothing of this kind.

One Euler step of size eta changes the linear invariant by exactly eta^2 (G_{l+1}^T G_{l+1} - G_l G_l^T), where G_l is
the gradient of layer l.
"""

from gradflow.exact.deep_linear import (
    aligned_deep_linear,
    chain,
    chain_time,
    deep_linear_half_time,
    deep_linear_modes,
)
from gradflow.exact.diagonal import diagonal_from_residual, diagonal_limit, diagonal_scalar, polar_diagonal_limit
from gradflow.exact.flat_minima import FlatMinima, flat_minima
from gradflow.exact.margin import diagonal_at_margin, diagonal_max_margin
from gradflow.exact.riccati_flow import RiccatiSolution, riccati
from gradflow.exact.separable_relu import SeparableMinimum, separable_relu
from gradflow.exact.sgd_ridge import RidgeNoise, sgd_ridge
from gradflow.exact.single_datum import (
    exponential_linear,
    logistic_linear,
    two_layer_exponential,
    two_layer_exponential_log_time,
)
from gradflow.exact.sphere_angle import sphere_angle, sphere_angle_time
from gradflow.exact.square_loss import NeuralCollapse, neural_collapse, resting_scale, ridge
from gradflow.exact.two_layer import (
    two_layer_mode,
    two_layer_scalar_output,
    two_layer_time,
    two_layer_unbalanced,
)

__all__ = [
    "FlatMinima",
    "NeuralCollapse",
    "RiccatiSolution",
    "RidgeNoise",
    "SeparableMinimum",
    "aligned_deep_linear",
    "chain",
    "chain_time",
    "deep_linear_half_time",
    "deep_linear_modes",
    "diagonal_at_margin",
    "diagonal_from_residual",
    "diagonal_limit",
    "diagonal_max_margin",
    "diagonal_scalar",
    "exponential_linear",
    "flat_minima",
    "logistic_linear",
    "neural_collapse",
    "polar_diagonal_limit",
    "riccati",
    "resting_scale",
    "ridge",
    "separable_relu",
    "sgd_ridge",
    "sphere_angle",
    "sphere_angle_time",
    "two_layer_exponential",
    "two_layer_exponential_log_time",
    "two_layer_mode",
    "two_layer_scalar_output",
    "two_layer_time",
    "two_layer_unbalanced",
]
