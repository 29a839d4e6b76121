"""Lets the language model say with its logits what turns them into log-probabilities: it knows the output, not the network.

Every answer comes with its confidence, so every step needs the log-probabilities of its tokens. NumPy takes for them, on one
thread, an eighth of a decode step of eight sequences over 152,000 logits each; in the graph they cost next to nothing
(docs/decisions/0015).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13 as ops

NAME: Final = "logsumexp"
"""The output: float32 [wanted, 1]. A token's log-probability is its logit less this."""


def add_logsumexp(model: ov.Model) -> None:
    """Give `model`, whose only output is the logits [wanted, vocab_size], a second output NAME. The logits stay as they are."""
    logits, axis = model.output(0).get_node().input_value(0), np.array([1], np.int64)
    largest = ops.reduce_max(logits, axis, keep_dims=True)  # no exponential of the others less this overflows
    terms = ops.exp(ops.subtract(logits, largest))
    # One float32 sum of a whole vocabulary would lose its small terms, up to 0.0002 of the logarithm: so it is a sum of sums.
    vocab_size = logits.get_partial_shape()[1].get_length()
    parts = ops.reshape(terms, np.array([0, _divisor(vocab_size), -1]), special_zero=True)
    total = ops.reduce_sum(ops.reduce_sum(parts, np.array([2], np.int64)), axis, keep_dims=True)
    result = ops.result(ops.add(largest, ops.log(total)))
    result.output(0).get_tensor().set_names({NAME})
    model.add_results([result])


def _divisor(number: int) -> int:
    """The largest one that is no larger than the square root."""
    return next(divisor for divisor in range(math.isqrt(number), 0, -1) if number % divisor == 0)
