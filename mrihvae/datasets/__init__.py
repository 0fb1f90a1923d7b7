"""Slices to train on: mixtures of files, lazy reading, collections of pictures."""
