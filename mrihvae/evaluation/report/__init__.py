"""A report of reconstructions: one HTML file with scores, pictures of every slice and all settings, for any browser."""
