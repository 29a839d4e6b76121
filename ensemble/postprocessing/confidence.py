"""Confidence of an answer: the geometric mean of the probabilities of its tokens, 0..1.

It is exp(mean(log p)), the inverse of the perplexity that the model gives its own answer. It says how sure
the model was of its words, not whether they are true; it compares answers of one model under one prompt
style, and a threshold (for example for handing a customer to a person) has to be fitted to that model. The
end-of-answer token counts when the language model reports it: being unsure where to end is being unsure.
Probabilities are the language model's, as it reports them. An answer without any token has confidence 0:
nothing was said, nothing is vouched for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Confidence:
    """Running geometric mean; constant memory."""

    tokens: int = 0
    log_prob_sum: float = 0.0

    def add(self, log_prob: float) -> None:
        """Count one token with natural log-probability `log_prob` (at most 0, -inf allowed)."""
        self.tokens += 1
        self.log_prob_sum += min(log_prob, 0.0)

    @property
    def value(self) -> float:
        """Geometric mean of the probabilities so far, 0 without tokens."""
        return math.exp(self.log_prob_sum / self.tokens) if self.tokens else 0.0
