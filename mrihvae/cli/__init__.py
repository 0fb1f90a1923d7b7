"""The command line."""

from mrihvae.cli.main import main as main
