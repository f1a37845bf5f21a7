"""Ensembles in vector lanes: eight runs side by side, each with its own step, counts and status."""
