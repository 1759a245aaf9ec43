"""A bundle as one file of StableHLO, with the proof that it computes the same."""
