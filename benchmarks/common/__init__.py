"""What benchmarks share: protocols, plots, measures."""
