"""How sure an answer is, as a probability that was fitted to answers judged right or wrong."""

from gateway.confidence.calibration import Calibration

__all__ = ["Calibration"]
