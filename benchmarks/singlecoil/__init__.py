"""One coil: quality, calibration, refinement, seconds."""
