"""The package comes first: a doctest run of a single module must not take the module for the function it defines."""

import gradflow  # noqa: F401
