"""IA-HVAE against the paper: seconds of inference and quality."""
