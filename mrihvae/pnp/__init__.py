"""PnP-HVAE: the loop, degraded images, restoration."""
