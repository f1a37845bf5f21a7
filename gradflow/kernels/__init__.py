"""Compiled value-and-gradient functions of the built-in families, and how a compiled function travels."""
