"""The network: frequency bands, layers, U-Nets, the hierarchical VAE, weights on disk."""
