"""Data as pairs (x, y): x (n, d) float64, y (n, k) float64 or class numbers (n,).

The same seed gives the same bits. Drawn inputs, noise and teachers come from streams of their own, spawned from
`default_rng(seed)`, so they are independent of each other and of weights drawn with the same seed.
"""

from gradflow.data.matrices import low_rank_matrix, matrix_completion, matrix_sensing, observed_entries
from gradflow.data.real import breast_cancer, diabetes, digits, mnist
from gradflow.data.sparse import SparseMeasurements, sparse_measurements
from gradflow.data.spheres import orthogonally_separable, orthonormal_classes, random_labels, unit_inputs, unit_rows
from gradflow.data.synthetic import (
    clouds,
    gaussian,
    nearly_orthogonal,
    separable,
    teacher_student,
    teacher_weights,
    whitened_modes,
)

__all__ = [
    "SparseMeasurements",
    "breast_cancer",
    "clouds",
    "diabetes",
    "digits",
    "gaussian",
    "low_rank_matrix",
    "matrix_completion",
    "matrix_sensing",
    "mnist",
    "nearly_orthogonal",
    "observed_entries",
    "orthogonally_separable",
    "orthonormal_classes",
    "random_labels",
    "separable",
    "sparse_measurements",
    "teacher_student",
    "teacher_weights",
    "unit_inputs",
    "unit_rows",
    "whitened_modes",
]
