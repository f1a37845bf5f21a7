"""The solvers that the benchmark compares, one small function each."""
