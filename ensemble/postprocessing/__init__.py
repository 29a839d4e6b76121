"""From generated tokens to the answer that the caller reads."""
