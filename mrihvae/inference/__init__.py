"""IA-HVAE: latents, their refinement, problems, reconstruction and samples."""
