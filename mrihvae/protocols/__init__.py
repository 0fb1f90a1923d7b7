"""Protocols of evaluation and of training, in TOML."""
