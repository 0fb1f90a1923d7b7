"""Training of the weights, and what is known of it."""
