"""Several coils: quality, sensitivity maps, seconds."""
