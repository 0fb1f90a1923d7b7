"""The server: seconds and robustness."""
