"""Numbers and pictures of results: scores, figures, the report."""
