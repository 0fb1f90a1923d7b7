"""Many volumes on workers, and what they cost."""
