"""Clocks: the variable a run is stepped in, for losses of 1e-10000, horizons of 1e12 and starts of 1e-100."""

from gradflow.clocks.kinds import ArcLength, LogLoss, LogTime, Loss, Relative, Time
from gradflow.clocks.targets import at, every

__all__ = ["ArcLength", "LogLoss", "LogTime", "Loss", "Relative", "Time", "at", "every"]
