"""PnP-HVAE against the paper: contraction and temperatures."""
