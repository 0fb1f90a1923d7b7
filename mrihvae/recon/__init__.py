"""A scan to a volume: methods, masks, coils, classical methods, restored volumes."""
