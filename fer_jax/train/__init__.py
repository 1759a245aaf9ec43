"""Training: config, state, optimiser, sharding, checkpoints, the loop and its tasks."""
