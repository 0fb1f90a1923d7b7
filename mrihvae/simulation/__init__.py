"""Simulated scans: coil arrays, phase, a scanner, its files."""
