"""Reconstruction of MRD streams: requests, sessions, TCP."""
