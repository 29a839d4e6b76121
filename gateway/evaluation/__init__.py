"""Learning from what customers said: rated answers as an evaluation set, and versions compared on it."""
