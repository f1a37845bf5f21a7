"""Papers: one file each, with figures to regenerate and claims that can fail."""

from gradflow.papers.claim import Claim
from gradflow.papers.paper import Figure, Paper
from gradflow.papers.registry import find, known, table
from gradflow.papers.reproduce import reproduce
from gradflow.papers.result import Result

__all__ = ["Claim", "Figure", "Paper", "Result", "find", "known", "reproduce", "table"]
