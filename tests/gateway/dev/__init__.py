"""The development stack as a user starts it."""
