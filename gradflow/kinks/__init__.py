"""Kinks of relu, leaky_relu and abs networks: which pattern a path follows, where it crosses, slides or branches."""

from gradflow.kinks.branch import Branch, probability_active
from gradflow.kinks.estimate import expected_events
from gradflow.kinks.record import EVENT

__all__ = ["EVENT", "Branch", "expected_events", "probability_active"]
