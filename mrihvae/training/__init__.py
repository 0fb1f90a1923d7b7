"""Training: random draws, batches, the objective, the optimizer, runs."""
