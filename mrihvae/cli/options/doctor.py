"""Options of commands. Whether the installation is sound."""

from __future__ import annotations

from mrihvae.cli.sections import FILES, Options


class Doctor(Options):
    """check the installation: weights, packages, devices, limits, and a reconstruction of a phantom

    The status is 1 if something is wrong. It takes a few seconds and writes no files.

    Examples:
      mrihvae doctor
      mrihvae doctor --json > doctor.json
    """

    json: bool = FILES("write an object for programs", False)
