"""Texts that hypothesis makes up, for the parsers of texts."""
