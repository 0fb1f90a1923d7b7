"""The command line, whose `main` may be called from Python.

It is imported at once, and not when it is used: a lazy name would give way to the module `main` once that is imported.
"""

from mrihvae.cli.main import main as main

__all__ = ["main"]
